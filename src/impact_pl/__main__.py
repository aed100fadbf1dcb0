"""`python -m impact_pl`: the program ``impact``."""

from impact_pl.cli.main import main

if __name__ == "__main__":
    main()
