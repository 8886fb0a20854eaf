"""An add-on of mitmproxy: it puts a key in place of a placeholder, in requests to one host over TLS.

The guest has the placeholder, and never sees the key. docs/policy.md has the recipe. The file is
JSON: for each host a placeholder and its key. Nobody but mitmproxy should be able to read it::

    {"api.example.com": {"placeholder": "KEY-OF-API", "key": "sk-123"}}

Run ``mitmdump -s insert_key.py --set keys_file=/etc/gvtap/keys.json``.
"""

import json
from pathlib import Path

from mitmproxy import ctx, http


class InsertKey:
    """Replaces the placeholder in the fields of a request's head. Bodies are left as they are."""

    def __init__(self) -> None:
        self.keys: dict[str, dict[str, str]] = {}

    def load(self, loader) -> None:  # type: ignore[no-untyped-def]
        """Define the option."""
        loader.add_option("keys_file", str, "", "file with a placeholder and a key for each host")

    def configure(self, updated: set[str]) -> None:
        """The option has a value."""
        if "keys_file" in updated and ctx.options.keys_file:
            self.keys = json.loads(Path(ctx.options.keys_file).read_text())

    def requestheaders(self, flow: http.HTTPFlow) -> None:
        """A guest asks for something.

        The host is the one to which mitmproxy connects, and whose certificate it checks. The Host field is
        what the guest says.
        """
        address = flow.server_conn.address
        found = self.keys.get(address[0]) if address else None
        if found is None or flow.request.scheme != "https":
            return
        for name, value in flow.request.headers.items(multi=True):
            if found["placeholder"] in value:
                flow.request.headers[name] = value.replace(found["placeholder"], found["key"])


addons = [InsertKey()]
