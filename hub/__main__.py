"""Entry point of `facilitator-hub`: runs the command line."""

from __future__ import annotations


def main() -> None:
    """Run the command line."""
    from hub.cli.main import main as run_command

    run_command()


if __name__ == "__main__":
    main()
