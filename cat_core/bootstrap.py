"""A door: `python -m cat_core.bootstrap` runs `book/cat_book/build/bootstrap.py` of the same checkout."""

if __name__ == "__main__":
    import sys
    from pathlib import Path

    sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "book"))
    from cat_book.build.bootstrap import main

    raise SystemExit(main())
