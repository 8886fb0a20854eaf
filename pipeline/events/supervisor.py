"""The lines that the supervisor writes to the log about itself and its workers. No subscriber gets them."""

from typing import Final

from pipeline.events.kind import CRITICAL, ERROR, INFO, WARNING, Kind, logged

_ERROR: Final = "what went wrong"
_PATH: Final = "path of the file"
_TIMES: Final = "how often since the last line"

LIFE: Final = (
    logged(
        *("version", INFO, ""),
        "The first line of a run: name and version of the program.",
        data_path="compiled or plain",
        python="version of Python",
    ),
    logged(
        *("plain-data-path", WARNING, "the data path is plain Python and needs three times the CPU"),
        "The package was installed without its compiled part.",
        reason="why",
    ),
    logged("setting-doubtful", WARNING, "", "Something in the settings has no effect, or not a good one."),
    logged(
        "no-way-for-guests",
        WARNING,
        "no guest can attach: start has neither -listen nor another flag for links",
        "The daemon serves nobody.",
    ),
    logged(
        *("descriptor-not-used", WARNING, "a passed descriptor is not used"),
        "The service manager passed a socket that no setting names.",
        descriptor="name of the descriptor",
    ),
    logged(
        *("listening", INFO, ""),
        "An endpoint or a listener for guests is open. The text has its address.",
        protocol="protocol of the links; missing for an endpoint",
    ),
    logged("metrics-served", INFO, "metrics", "The endpoint for metrics is open.", url="its address"),
    logged(
        *("web-page", INFO, "web page"),
        "The web page is open, or a browser has used the last address.",
        url="its address, with a token that works once",
    ),
    logged(
        *("metrics-open", WARNING, "everyone who reaches this address can read the metrics"),
        "The endpoint for metrics has an address that others can reach.",
        url="the address",
    ),
    logged(
        *("ready", INFO, "waiting for clients..."),
        "Everything is open.",
        processes="number of the worker processes",
    ),
    logged("signal-caught", INFO, "signal caught", "A signal came that ends the daemon.", signal="its name"),
    logged(
        *("leases-not-written", WARNING, "leases not written yet"),
        "The file of leases cannot be written now.",
        path=_PATH,
        error=_ERROR,
    ),
    logged("leases-written-again", INFO, "leases written again", "The file is up to date.", path=_PATH),
    logged(
        *("quotas-not-written", WARNING, "quotas not written yet"),
        "The file of what guests have used cannot be written now.",
        path=_PATH,
        error=_ERROR,
    ),
    logged("quotas-written-again", INFO, "quotas written again", "That file is up to date.", path=_PATH),
    logged(
        *("quotas-failed", ERROR, "quotas cannot be added up"),
        "An error of the program while it asked the workers what guests have used. It tries again.",
        error=_ERROR,
        exception="the traceback",
    ),
    logged(
        *("socket-file-left", WARNING, "socket file not removed: it is gone or not ours"),
        "The socket file of a forward stays.",
        path=_PATH,
    ),
    logged(
        *("sandbox-not-whole", WARNING, "the sandbox of the workers is not whole"),
        "The system lacks something for the sandbox.",
        missing="what is missing",
    ),
    logged(
        *("sandbox-missing", INFO, "this system has no sandbox for workers"),
        "The program has a sandbox on Linux only.",
    ),
    logged("stopped", INFO, "stopped", "All workers have ended.", status="exit status of the daemon"),
    logged("start-failed", CRITICAL, "", "The daemon cannot start. The text says why."),
    logged(
        *("worker-died", ERROR, "worker died"),
        "A worker process has ended. A successor takes its place, or the daemon ends.",
        exitcode="its status; negative for a signal",
        restarts="how many workers have died before it",
        signal="name of the signal that ended it",
        counted="what its workers had counted last",
    ),
    logged(
        *("worker-replaced", INFO, "worker replaced"),
        "A worker that died has a successor. Everything else goes on.",
        workers="names of the workers in the process",
        seconds="how long the others paused",
        references="references to slots that were lost with it, and are free again",
    ),
    logged(
        *("worker-hangs", ERROR, "worker does not breathe"),
        "A worker process did nothing for too long. It is killed, and replaced as if it had died.",
    ),
    logged(
        *("worker-does-not-help", WARNING, "a worker does not help to replace another"),
        "It did not answer while the others paused. It is killed, and replaced too.",
        of="name of the worker",
        error=_ERROR,
    ),
    logged(
        *("successor-not-prepared", WARNING, "a successor is not prepared"),
        "It has not taken over what its predecessor knew.",
        of="name of the worker",
        error=_ERROR,
    ),
    logged(
        *("link-ends", WARNING, "a link cannot go on"),
        "Ingress has died, and its successor cannot carry on the link of a guest.",
        link="number of the link",
        error=_ERROR,
    ),
    logged(
        *("successor-lacks-sockets", ERROR, "a successor lacks its sockets"),
        "Listeners for guests cannot be handed over to it.",
        of="name of the worker",
        error=_ERROR,
    ),
    logged(
        *("worker-not-replaced", ERROR, "worker cannot be replaced"),
        "A worker process has ended, and the daemon ends with it.",
        error=_ERROR,
    ),
    logged(
        *("healing-failed", ERROR, "healing failed"),
        "A fault of this program: a worker has died, its successor was not introduced, and the daemon ends.",
        error=_ERROR,
    ),
    logged(
        *("worker-killed", ERROR, "worker did not stop in time"),
        "A worker process was killed at the end of the daemon.",
    ),
    logged(
        *("file-left", WARNING, "file not removed: another program's, or not permitted"),
        "A socket or pid file stays.",
        path=_PATH,
    ),
    logged(
        *("original-guest-gone", ERROR, ""),
        "gvtap-gvproxy: the original's line about a guest that left.",
        protocol="protocol of the link",
        peer="address of the socket at the other end",
        opened_by="process or machine that opened the link",
    ),
    logged("original-exit", ERROR, "", "gvtap-gvproxy: the original's last line."),
)

RELOAD: Final = (
    logged(
        *("reloaded", INFO, "configuration reloaded"),
        "SIGHUP: the settings of the file are in force.",
        changed="the keys that have changed",
    ),
    logged("restart-begins", INFO, "restart begins", "A successor of the whole program is being started."),
    logged(
        *("restarted", INFO, "restarted: a successor goes on"),
        "The successor has all sockets and links. This process ends.",
        successor="its process id",
        version="its version",
        seconds="how long it took since the wish",
    ),
    logged(
        *("successor-silent", ERROR, "the successor is silent"),
        "It has everything, and does not say that it runs. This process ends nevertheless.",
        error=_ERROR,
    ),
    logged(
        *("restart-refused", ERROR, "not restarted: nothing has changed"),
        "The successor did not start, or could not take over. This process goes on.",
        error=_ERROR,
    ),
    logged(
        *("restart-twice", WARNING, "a restart is under way"),
        "SIGUSR2 came again.",
    ),
    logged(
        *("taken-over", INFO, "taken over from a predecessor"),
        "This process has the sockets and links of another one, which ends.",
        links="the number of guests' links that go on",
        forwards="the number of open forwards",
        seconds="from the pause of the predecessor's workers to this line",
    ),
    logged(
        *("not-taken-over", ERROR, "not taken over"),
        "Something of the predecessor is lost.",
        what="what it is",
        error=_ERROR,
    ),
    logged(
        *("pid-file-not-written", ERROR, "pid file not written"),
        "The pid file still has the number of the predecessor.",
        error=_ERROR,
    ),
    logged(
        *("reload-refused", ERROR, "configuration not reloaded: nothing has changed"),
        "SIGHUP: the file has a mistake, or a setting cannot be applied.",
        error=_ERROR,
    ),
    logged(
        *("names-reloaded", INFO, "names reloaded"),
        "A file with names of the egress policy has changed: its names are in force.",
        names="the number of names in all files",
    ),
    logged(
        *("names-refused", ERROR, "names not reloaded: nothing has changed"),
        "A file with names of the egress policy has changed, and has a mistake.",
        error=_ERROR,
    ),
    logged(
        *("reload-keys-kept", WARNING, "keys that cannot change while the program runs keep their values"),
        "SIGHUP: some changes need a new start.",
        keys="the keys",
    ),
    logged(
        *("reload-failed", ERROR, "reload failed"),
        "SIGHUP met an error of this program.",
        error=_ERROR,
        exception="the traceback",
    ),
    logged(
        *("reload-worker-failed", ERROR, "a worker has not taken the new settings"),
        "A worker goes on with its old settings.",
        of="name of the worker",
        error=_ERROR,
    ),
    logged(
        *("approval-rules-left", ERROR, "rules of a link that is gone are still there"),
        "The rules of approvals for a session could not be removed. Another guest may get the link's number.",
        error=_ERROR,
    ),
    logged(
        *("reload-forward-lost", ERROR, "a forward cannot be as it was"),
        "A reload was refused, or a worker has died, and a forward cannot be restored.",
        forward="the forward",
        error=_ERROR,
    ),
)

LOG: Final = (
    logged("log-reopened", INFO, "log reopened", "The log file was opened again after SIGUSR1."),
    logged(
        *("log-not-reopened", ERROR, "log file cannot be opened again"),
        "The old file stays.",
        path=_PATH,
        error=_ERROR,
    ),
    logged(
        *("flow-log-not-written", ERROR, "flow log not written"),
        "Lines of the flow log are lost, for instance since the disk is full. A counter has their number.",
        path=_PATH,
        error=_ERROR,
    ),
    logged(
        *("flow-log-written-again", INFO, "flow log written again"),
        "Lines of the flow log are written again. The file says how many are missing.",
        path=_PATH,
    ),
    logged(
        *("flow-log-not-reopened", ERROR, "flow log cannot be opened again"),
        "The old file stays.",
        path=_PATH,
        error=_ERROR,
    ),
    logged(
        *("flows-without-names", WARNING, "flows are reported without names"),
        "A worker has not told the supervisor what it knows of guests and names.",
        error=_ERROR,
    ),
    logged(
        *("log-lines-left-out", WARNING, "log lines left out"),
        "Lines over the log's rates (docs/limits.md), which no other line has reported.",
        of="kind of the lines",
        suppressed="their number",
        most="the guests or clients with most of them",
    ),
    logged(
        *("log-not-written", ERROR, "log not written"),
        "The log file takes no lines, for instance since the disk is full. This line is on standard error.",
        path=_PATH,
        error=_ERROR,
    ),
    logged(
        *("log-lines-dropped", WARNING, "log lines dropped"),
        "The log took no lines for some time.",
        count="lines lost",
    ),
    logged(
        *("library", WARNING, ""),
        "A line of a library: asyncio, aiohttp and others.",
        logger="the library's name for its log",
        exception="the traceback",
    ),
)

WORKERS: Final = (
    logged(
        *("control-message-unreadable", ERROR, "control message cannot be read"),
        "A worker has sent what is no message.",
        error=_ERROR,
    ),
    logged(
        *("event-failed", ERROR, "event failed"),
        "A worker's message met an error of this program.",
        failed="name of the message",
        error=_ERROR,
        exception="the traceback",
    ),
    logged(
        *("event-unknown", WARNING, "unknown event"),
        "A worker has sent a message that the supervisor does not know.",
        name="name of the message",
    ),
    logged(
        *("event-lost", WARNING, "no descriptor left for an event"),
        "A worker's message is lost with its socket.",
        lost="name of the message",
        times=_TIMES,
    ),
    logged(
        *("answer-late", WARNING, "answer came too late"),
        "A worker has answered after the time for its answer.",
        id="number of the request",
    ),
    logged(
        *("dns-connection-lost", WARNING, "a guest's DNS connection cannot be handed over"),
        "The resolver cannot take a connection.",
        error=_ERROR,
        times=_TIMES,
    ),
    logged(
        *("metrics-without-guests", WARNING, "metrics without guests: demux does not answer"),
        "A page of metrics lacks the series by guest.",
        error=_ERROR,
        times=_TIMES,
    ),
)

KINDS: Final[tuple[Kind, ...]] = (*LIFE, *RELOAD, *LOG, *WORKERS)
