"""``python -m duotone``: the command line."""

from duotone.cli.main import run

if __name__ == "__main__":
    run()
