"""Run the program ``impact`` with `python -m impact_pl`."""

from impact_pl.cli.main import main

if __name__ == "__main__":
    main()
