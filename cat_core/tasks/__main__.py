"""A door: `python -m cat_core.tasks` runs `cat_core.tasks.command`."""

if __name__ == "__main__":
    from cat_core.tasks.command import main

    raise SystemExit(main())
