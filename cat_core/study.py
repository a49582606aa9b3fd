"""A door: `python -m cat_core.study` runs `cat_core.studies.command`."""

if __name__ == "__main__":
    from cat_core.studies.command import main

    raise SystemExit(main())
