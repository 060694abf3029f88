"""``python -m blackbelt``."""

from blackbelt.cli import main

if __name__ == "__main__":
    main()
