"""What stands over the screen of ``top`` for a moment: the help, and the question before a flow is ended."""

from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.screen import ModalScreen
from textual.widgets import Static

HELP = """\
1 2 3 4, Tab   guests, flows, workers, drops
Enter          on a guest: its flows
< >            sort by another column (or click its title)
r              sort the other way round
/              filter: only rows that have all words; Enter keeps it
Esc            no filter, flows of all guests
d, Del         end the flow under the cursor (it asks)
?              this help
q, Ctrl+C      quit

UP, DOWN       bytes from and to the guest; /s: since the poll before
WAITING        records in the rings from which a worker reads
FULLEST RING   where most of them come from, and how full the ring is
SLOTS IN USE   of the worker's own pool of payload memory
BUSY           share of the last second; one figure for a process"""


class Help(ModalScreen[None]):
    """All keys, and what the columns mean."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape,q,question_mark,enter", "dismiss", "Close")]

    def compose(self) -> ComposeResult:
        """A box with the text."""
        with Vertical(classes="box") as box:
            box.border_subtitle = "Esc closes"
            yield Static(HELP, markup=False)


class Question(ModalScreen[bool]):
    """A question that only the letter y answers with yes."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("y", "answer(True)", "Yes"),
        Binding("n,escape,q,enter", "answer(False)", "No"),
    ]

    def __init__(self, text: str) -> None:
        super().__init__()
        self._text = text

    def compose(self) -> ComposeResult:
        """A box with the question."""
        with Vertical(classes="box"):
            yield Static(f"{self._text}\n\ny  yes    n  no", markup=False)

    def action_answer(self, yes: bool) -> None:
        """Close the box."""
        self.dismiss(yes)
