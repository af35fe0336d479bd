"""Lists of texts: their forms, their splits, and how a text becomes token ids."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pipeline import datasets, sources
from pipeline.core import Standardization, Tokens
from pipeline.datasets import SPLITS, _text, textlist
from pipeline.errors import BadData, BadModel
from tests.datasets import synthetic

ROOT = Path(__file__).parents[2]
LETTERS = str.maketrans("0123456789", "ghijklmnop")
TOKENIZER = {
    "version": "1.0",
    "truncation": {"direction": "Right", "max_length": 2, "strategy": "LongestFirst", "stride": 0},
    "padding": {"strategy": {"Fixed": 9}, "direction": "Right", "pad_id": 1, "pad_type_id": 0, "pad_token": "?"},
    "added_tokens": [],
    "normalizer": None,
    "pre_tokenizer": {"type": "Whitespace"},
    "post_processor": None,
    "decoder": None,
    "model": {"type": "WordLevel", "vocab": {"#": 0, "?": 1, "win": 2, "home": 3, "now": 4}, "unk_token": "?"},
}
"""Words, with a truncation and a padding of its own, which SPEC overrules."""


@pytest.fixture
def tokens(tmp_path: Path) -> Tokens:
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps(TOKENIZER))
    return Tokens(str(path), 4, 0, lowercase=True)


def rows(split: str, data: Path) -> list[str]:
    return textlist.texts(data, split)


# -- ids ---------------------------------------------------------------------------------------------------------------


def test_ids_are_filled_with_padding_and_cut_at_the_length(tokens: Tokens) -> None:
    ids, cut = _text.encode(["Win home", "win NOW home stranger now now", ""], tokens)
    assert ids.tolist() == [[2, 3, 0, 0], [2, 4, 3, 1], [0, 0, 0, 0]] and ids.dtype == np.int32
    assert cut == (1,)
    assert _text.encode(["Win home"], replace(tokens, lowercase=False))[0].tolist() == [[1, 3, 0, 0]]


def test_texts_that_are_cut_are_counted_with_the_first_of_them(
    tokens: Tokens, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = synthetic.text_list(tmp_path / "a.tsv", [("a", "win"), ("b", "win now home now now"), ("a", "now")])
    textlist.load(data, "train", tokens)
    textlist.load(data, "test", tokens)
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "tokens" in line]
    assert "1 of 3" in line and "a.tsv, line 2" in line


def test_a_tokenizer_is_made_of_the_training_texts_only_and_the_same_every_time(tmp_path: Path) -> None:
    words = [hashlib.sha256(bytes([i])).hexdigest()[:8].translate(LETTERS) for i in range(60)]
    data = synthetic.text_list(
        tmp_path / "a.tsv", [("ab"[i % 2], " ".join([word] * 9)) for i, word in enumerate(words)]
    )
    for name in ("one", "two"):
        command = [sys.executable, "-m", "pipeline.datasets.textlist", str(data), str(tmp_path / name)]
        assert subprocess.run(command, check=True, capture_output=True, cwd=ROOT).stdout == b""
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()
    vocabulary = json.loads((tmp_path / "one").read_text())["model"]["vocab"]
    assert len(vocabulary) <= 2048 and vocabulary["[PAD]"] == 0
    known = {split: {f"Ġ{text.split()[0]}" in vocabulary for text in rows(split, data)} for split in SPLITS}
    assert known == {"train": {True}, "validation": {False}, "test": {False}}


@pytest.mark.parametrize("content", ["", "{}", "[1]", '{"model": {"type": "Unheard"}}'])
def test_a_file_that_is_no_tokenizer_is_named(content: str, tokens: Tokens) -> None:
    Path(tokens.tokenizer).write_text(content)
    with pytest.raises(BadModel, match=r"tokenizer\.json"):
        _text.encode(["a"], tokens)


def test_a_tokenizer_with_more_tokens_than_the_input_takes_is_refused(tmp_path: Path) -> None:
    model = sources.find("text_tiny_transformer")
    (tensor,) = model.spec.inputs
    spec = replace(model.spec, inputs=(replace(tensor, value_range=(0.0, 2046.0)),))
    data = synthetic.text_list(tmp_path / "a.tsv", synthetic.messages(8))
    with pytest.raises(BadModel, match=r"2048 tokens.*2046"):
        datasets.load(textlist, data, "test", spec, model.folder)  # type: ignore[arg-type]


def test_texts_need_tokens(tmp_path: Path) -> None:
    data = synthetic.text_list(tmp_path / "a.tsv", synthetic.messages(8))
    with pytest.raises(BadModel, match="Tokens, not Standardization"):
        textlist.load(data, "test", Standardization((0.0,), (1.0,)))  # type: ignore[arg-type]


# -- forms -------------------------------------------------------------------------------------------------------------

LINES = [(label, f"{text}, {i}") for i, (label, text) in enumerate(synthetic.messages(10))]
TSV = "".join(f"{label}\t{text}\n" for label, text in LINES)
CSV = "".join(f'{label},"{text}"\r\n' for label, text in LINES)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("texts.tsv", TSV),
        ("texts.tsv", "\ufeff" + TSV.replace("\n", "\r\n\r\n")),
        ("SMSSpamCollection", TSV.rstrip("\n")),
        ("texts.csv", CSV),
        ("texts.csv", "Label,Text\n" + CSV),
        ("texts.tsv", "id\tmessage\tcategory\n" + "".join(f"{i}\t{t}\t{c}\n" for i, (c, t) in enumerate(LINES))),
    ],
)
def test_files_with_and_without_a_header_have_the_same_rows(name: str, content: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(content, newline="")
    expected = sorted(text for _, text in LINES)
    assert sorted(text for split in SPLITS for text in rows(split, tmp_path / name)) == expected
    assert textlist.classes(tmp_path / name) == ("ham", "spam")


def test_quotes_and_line_breaks_in_a_field_belong_to_csv_only(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text('a,"He said ""no"",\nand left"\nb,yes, \n'.replace("yes, ", "yes"))
    assert {row.text for row in textlist._rows(tmp_path / "a.csv")} == {'He said "no",\nand left', "yes"}
    (tmp_path / "a.tsv").write_text('a\t"He said\nb\tyes"\n')
    assert {row.text for row in textlist._rows(tmp_path / "a.tsv")} == {'"He said', 'yes"'}


def test_a_folder_and_a_zip_give_the_splits_of_their_file(tmp_path: Path, tokens: Tokens) -> None:
    file = synthetic.text_list(tmp_path / "a.tsv", LINES)
    folder = synthetic.as_folder(tmp_path / "folder", {"in/a.tsv": file.read_bytes(), "README.md": b"no text list"})
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.write(file, "in/a.tsv")
    assert len({textlist.load(data, "test", tokens).sha256 for data in (file, folder, tmp_path / "a.zip")}) == 1


# -- splits ------------------------------------------------------------------------------------------------------------


def test_equal_texts_are_in_one_split_whatever_their_order_case_and_label(tmp_path: Path) -> None:
    twice = [*LINES, *((label, f" {text.upper()}  ") for label, text in LINES[:20:2]), ("spam", LINES[2][1])]
    data = synthetic.text_list(tmp_path / "a.tsv", twice)
    back = synthetic.text_list(tmp_path / "b.tsv", twice[::-1])
    found = {split: {_text.same(text) for text in rows(split, data)} for split in SPLITS}
    assert sum(map(len, found.values())) == len(LINES) and sum(len(rows(split, data)) for split in SPLITS) == len(twice)
    assert found == {split: {_text.same(text) for text in rows(split, back)} for split in SPLITS}
    assert len(found["test"]) == 6 and len(found["validation"]) == 2


def test_files_named_for_splits_are_used_as_they_are(tmp_path: Path) -> None:
    files = {"train.tsv": TSV.encode(), "test.csv": b"ham,home\nspam,win\n"}
    data = synthetic.as_folder(tmp_path / "two", files)
    assert [len(rows(split, data)) for split in SPLITS] == [18, 2, 2] and sorted(rows("test", data)) == ["home", "win"]
    data = synthetic.as_folder(tmp_path / "three", files | {"validation.txt": b"ham\tbus\nspam\tcash\nspam\tprize\n"})
    assert [len(rows(split, data)) for split in SPLITS] == [20, 3, 2]


# -- what bad input gets -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "content", "named"),
    [
        ("a.tsv", b"ham\tx\nham y\n", "a.tsv, line 2.*tab"),
        ("a.tsv", b"ham\tx\n\nspam\ty\tz\n", "a.tsv, line 3.*3 columns"),
        ("a.tsv", b"ham\tx\nspam\t \n", "a.tsv, line 2.*text is empty"),
        ("a.tsv", b"ham\tx\n\ty\n", "a.tsv, line 2.*label is empty"),
        ("a.tsv", b"ham\tx\nspam\t\xe9\n", "a.tsv, line 2.*0xe9 is not UTF-8"),
        ("a.csv", b"ham,x\nspam,y,z\n", "a.csv, line 2.*3 columns"),
        ("a.csv", b'ham,x\nspam,"y', "a.csv, line 2"),
        ("a.csv", b"id,label,text\n1,ham\n", "a.csv, line 2.*2 columns.*3 columns"),
        ("a.tsv", b"ham\tx\nham\ty\n", "a.tsv.*'ham'.*two"),
        ("a.tsv", b"", "no texts"),
    ],
)
def test_a_bad_row_is_refused_with_its_file_and_line(name: str, content: bytes, named: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(BadData, match=named):
        textlist.classes(tmp_path / name)


@pytest.mark.parametrize(
    ("files", "named"),
    [
        ({"train.tsv": TSV, "more.tsv": TSV}, r"more\.tsv"),
        ({"train.tsv": TSV}, "test"),
        ({"notes.md": TSV}, "no texts"),
    ],
)
def test_a_folder_of_another_form_is_refused(files: dict[str, str], named: str, tmp_path: Path, tokens: Tokens) -> None:
    data = synthetic.as_folder(tmp_path / "data", {name: text.encode() for name, text in files.items()})
    with pytest.raises(BadData, match=named):
        textlist.load(data, "train", tokens)
