"""A door: `python -m cat_core.runs` runs `book/cat_book/build/runs.py` of the same checkout."""

if __name__ == "__main__":
    import sys
    from pathlib import Path

    sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "book"))
    from cat_book.build.runs import main

    raise SystemExit(main())
