"""``python -m duotone``: the command line."""

import signal


def run() -> None:
    """Run the program on `sys.argv` and exit; Ctrl-C while it is still being imported ends it without a traceback."""
    interrupt = signal.getsignal(signal.SIGINT)
    if interrupt is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    from duotone.cli.main import run as start

    signal.signal(signal.SIGINT, interrupt)
    start()


if __name__ == "__main__":
    run()
