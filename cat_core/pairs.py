"""A door: `python -m cat_core.pairs` runs `cat_core.training.pairs`."""

if __name__ == "__main__":
    from cat_core.training.pairs import main

    raise SystemExit(main())
