"""Test sets of WMT's shared tasks through sacrebleu's own loader, as rows in the layout of the Hub's WMT sets."""

from pathlib import Path

from cat_core.tasks.schema import nearest


def newstest_rows(test_set: str, pair: str) -> list[dict]:
    """Rows {"id", "translation": {source, target}, "references"} of a test set ("wmt22") and pair ("de-en").

    sacrebleu fetches the set at first use, compares its md5 and keeps it in `~/.sacrebleu` (or $SACREBLEU). The
    translation is the reference that sacrebleu takes unless told otherwise; `references` has all, that one first.
    Raises ImportError, ValueError or FileNotFoundError in one line.
    """
    try:
        from sacrebleu.dataset import DATASETS
        from sacrebleu.utils import get_md5sum
    except ImportError:
        raise ImportError(f"{test_set} {pair}: needs the package sacrebleu (extra 'book'); install it, or give "
                          "data_root") from None  # fmt: skip
    if test_set not in DATASETS or pair not in DATASETS[test_set].langpairs:
        hint = nearest(pair, DATASETS[test_set].langpairs) if test_set in DATASETS else nearest(test_set, DATASETS)
        raise ValueError(f"sacrebleu has no test set {test_set!r} for {pair!r}{hint}")
    data = DATASETS[test_set]
    # sacrebleu compares the md5 of what it has just fetched, and then takes for good whatever lies there.
    for url, md5 in zip(data.data, data.md5 or []):
        archive = Path(data._rawdir, data._get_tarball_filename(url))
        if archive.is_file() and get_md5sum(str(archive)) != md5:
            raise ValueError(f"{archive}: its md5 is not {md5}, that of {test_set}: it was changed or cut; delete it, "
                             "and it is fetched again")  # fmt: skip
    try:
        source = _lines(data.get_source_file(pair))
        first = [_lines(path) for path in data.get_reference_files(pair)]
        files = dict(zip(data.fieldnames(pair), data.get_files(pair)))
        others = [_lines(path) for field, path in sorted(files.items()) if field.split(":")[0] == "ref"]
    except (Exception, SystemExit) as error:  # no network, a wrong md5 (sacrebleu exits), a full disk
        reason = (str(error).strip().splitlines() or ["no message"])[0]
        raise FileNotFoundError(
            f"{test_set} {pair} cannot be loaded by sacrebleu ({type(error).__name__}: {reason}); check the network "
            f"and {data._rawdir}, or give data_root (or CAT_DATA_ROOT), a folder in Hub layout"
        ) from None
    from_, to = pair.split("-")
    rows = []
    for number, texts in enumerate(zip(source, *first, *others, strict=True)):
        references = list(dict.fromkeys(text for text in texts[1:] if text))
        rows.append({"id": str(number), "translation": {from_: texts[0], to: references[0]}, "references": references})
    return rows


def _lines(path: str) -> list[str]:
    with open(path, encoding="utf-8", newline="\n") as file:
        return [line.rstrip("\n") for line in file]
