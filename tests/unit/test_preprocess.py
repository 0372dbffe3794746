"""The preprocess command on real text: megatron-core reads the ids of transformers' tokenizer."""

from __future__ import annotations

import gzip
import json
import resource
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from megatron.core.datasets.indexed_dataset import IndexedDataset
from small_tokenizers import write_gpt2_like
from transformers import AutoTokenizer

from megatron_ipt.cli.preprocess_data import main, parse_flags
from megatron_ipt.corpus.indexed_writer import check_indexed_dataset
from megatron_ipt.corpus.lineage import find_manifests, trace_lineage
from megatron_ipt.corpus.manifest import Manifest, dataset_manifest_name, find_producer, read_manifest
from megatron_ipt.corpus.rows import expand_inputs
from megatron_ipt.errors import UserError
from megatron_ipt.tokenization import encoders
from megatron_ipt.tokenization.encoders import EncodedTexts, GigatokenEncoder
from megatron_ipt.tokenization.outputs import PreprocessOutputs
from megatron_ipt.tokenization.preprocessing import preprocess

ODD_TEXTS = [
    "",
    "😀👩‍👩‍👧‍👦🏽🇩🇪 and text",
    "a <s> b</s>  <unk> <|im_start|>struck<|im_end|>",
    " ",
    "\u00a0odd\u3000white\u2028space \r\n\t",
    "e\u0301 é ﷺ \U0010ffff \ufeff",
    "",
]
BROKEN_UTF8 = b'{"text": "broken \xff\xfe"}\n'


@pytest.fixture(scope="module")
def passages(quickstart_inputs: Path) -> list[str]:
    with (quickstart_inputs / "raw" / "boolq.jsonl").open(encoding="utf-8") as rows:
        return [json.loads(row)["text"] for row in rows]


def write_rows(file: Path, texts: Sequence[str]) -> Path:
    content = b"".join(json.dumps({"text": text}).encode() + b"\n" for text in texts)
    file.write_bytes(gzip.compress(content) if file.suffix == ".gz" else content)
    return file


def flags(inputs: Sequence[Path | str], prefix: Path, tokenizer: Path, *more: str) -> list[str]:
    named = ["--input", *map(str, inputs), "--output-prefix", str(prefix), "--tokenizer-model", str(tokenizer)]
    return [*named, "--tokenizer-type", "HuggingFaceTokenizer", *more]


def manifest_of(prefix: Path, key: str = "text") -> Manifest:
    manifest = read_manifest(prefix.parent, dataset_manifest_name(f"{prefix.name}_{key}_document"))
    assert manifest is not None
    return manifest


@pytest.mark.slow
@pytest.mark.parametrize("tokenizer_name", ["tokenizer", "smollm2"])
def test_ids_are_those_of_the_reference_tokenizer(
    tokenizer_name: str,
    quickstart_inputs: Path,
    passages: list[str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    tokenizer_folder = quickstart_inputs / tokenizer_name
    megabyte = "\n\n".join(passages)[:1_000_000]
    write_rows(tmp_path / "a_odd.jsonl", [*ODD_TEXTS, megabyte])
    with (tmp_path / "a_odd.jsonl").open("ab") as rows:
        rows.write(BROKEN_UTF8 + b'\n{"text": 3}\n{"words": "no text"}\nnot json\n')
    write_rows(tmp_path / "b_packed.jsonl.gz", passages[:40])
    pq.write_table(pa.table({"text": [*ODD_TEXTS, *passages[40:80]]}), tmp_path / "c.parquet")
    real = quickstart_inputs / "raw" / "boolq.jsonl"
    inputs = [str(tmp_path / "[ab]_*.jsonl*"), tmp_path / "c.parquet", real]
    prefix = tmp_path / "out" / "corpus"

    assert main(flags(inputs, prefix, tokenizer_folder, "--bad-input", "skip", "--prepend-bod", "--append-eod")) == 0

    texts = [*ODD_TEXTS, megabyte, *passages[:40], *ODD_TEXTS, *passages[40:80], *passages]
    assert len(texts) > 5000
    tokenizer = AutoTokenizer.from_pretrained(tokenizer_folder)
    expected = tokenizer(texts, add_special_tokens=False, split_special_tokens=True)["input_ids"]
    read = IndexedDataset(f"{prefix}_text_document")
    assert len(read) == len(texts)
    for index, ids in enumerate(expected):
        assert read[index].tolist() == [tokenizer.bos_token_id, *ids, tokenizer.eos_token_id], texts[index][:200]
        assert not {tokenizer.bos_token_id, tokenizer.eos_token_id} & set(ids), texts[index][:200]
    check_indexed_dataset(Path(f"{prefix}_text_document"), len(tokenizer))

    said = capsys.readouterr().err
    skipped = [json.loads(row) for row in Path(f"{prefix}_text_document.skipped_rows.jsonl").read_text().splitlines()]
    first_bad = len(ODD_TEXTS) + 2
    locations = [f"{tmp_path / 'a_odd.jsonl'}:{first_bad + offset}" for offset in (0, 2, 3, 4)]
    assert [row["location"] for row in skipped] == locations
    assert all(location in said for location in locations)
    assert "not valid UTF-8: byte 0xff" in skipped[0]["reason"]
    counts = manifest_of(prefix).counts
    assert counts["skipped_rows"] == 4
    assert (counts["documents"], counts["empty_documents"]) == (len(texts), expected.count([]))
    assert counts["tokens"] == sum(map(len, expected)) + 2 * len(texts)


def test_special_tokens_are_added_only_on_request(quickstart_inputs: Path, tmp_path: Path) -> None:
    write_rows(tmp_path / "odd.jsonl", ODD_TEXTS)
    assert main(flags([tmp_path / "odd.jsonl"], tmp_path / "out" / "x", quickstart_inputs / "tokenizer")) == 0
    tokenizer = AutoTokenizer.from_pretrained(quickstart_inputs / "tokenizer")
    read = IndexedDataset(str(tmp_path / "out" / "x_text_document"))
    expected = tokenizer(ODD_TEXTS, add_special_tokens=False, split_special_tokens=True)["input_ids"]
    assert [read[index].tolist() for index in range(len(read))] == expected
    assert len(read[0]) == len(read[len(read) - 1]) == 0


@pytest.mark.slow
def test_sentencepiece_model_gives_datasets_and_a_tokenizer_folder(
    sentencepiece_file: Path, passages: list[str], tmp_path: Path
) -> None:
    data = write_rows(tmp_path / "data.jsonl", passages[:50])
    given = ["--tokenizer-type", "Llama2Tokenizer", "--tokenizer-model", str(sentencepiece_file)]
    prefix = tmp_path / "out" / "x"
    assert main(["--input", str(data), "--output-prefix", str(prefix), *given]) == 0
    tokenizer = AutoTokenizer.from_pretrained(prefix.parent / "tokenizer")
    read = IndexedDataset(f"{prefix}_text_document")
    for index, text in enumerate(passages[:50]):
        assert read[index].tolist() == tokenizer.encode(text, add_special_tokens=False)
    outputs = {record.path for record in manifest_of(prefix).outputs}
    assert outputs == {"x_text_document.bin", "x_text_document.idx"}
    manifest_file, manifest = find_producer(prefix.parent / "tokenizer" / "tokenizer.json")
    assert (manifest_file.parent.name, manifest.status) == ("tokenizer", "complete")
    assert len(list(prefix.parent.iterdir())) == 4

    second = prefix.with_name("y")
    assert main(["--input", str(data), "--output-prefix", str(second), *given]) == 0
    assert Path(f"{second}_text_document.bin").read_bytes() == Path(f"{prefix}_text_document.bin").read_bytes()


def test_every_key_has_a_dataset_whatever_the_number_of_workers(
    quickstart_inputs: Path, passages: list[str], tmp_path: Path
) -> None:
    rows = [{"text": text, "meta": {"title": text[:20]}} for text in passages[:300]]
    (tmp_path / "data.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    for workers in ("1", "2"):
        keys = ["--json-keys", "text", "meta.title", "--workers", workers]
        prefix = tmp_path / workers / "x"
        assert main(flags([tmp_path / "data.jsonl"], prefix, quickstart_inputs / "tokenizer", *keys)) == 0
    for key in ("text", "meta.title"):
        for ending in (".bin", ".idx"):
            one, two = (tmp_path / workers / f"x_{key}_document{ending}" for workers in ("1", "2"))
            assert one.read_bytes() == two.read_bytes()
            assert find_producer(one)[1] == manifest_of(tmp_path / "1" / "x", key)
    assert len(IndexedDataset(str(tmp_path / "1" / "x_meta.title_document"))) == 300


def test_datasets_can_be_written_concurrently_next_to_their_input(
    quickstart_inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("a", "b"):
        write_rows(Path(f"{name}.jsonl"), [f"text of {name}", "and more"])
    both = [flags([f"{name}.jsonl"], Path(f"my-{name}"), quickstart_inputs / "tokenizer") for name in ("a", "b")]
    with ThreadPoolExecutor(2) as pool:
        counts = list(pool.map(lambda arguments: preprocess(parse_flags(arguments)), both))
    assert [datasets["text"]["documents"] for datasets in counts] == [2, 2]
    found = find_manifests(tmp_path)
    assert [file.name for file, _ in found] == [f"my-{name}_text_document.manifest.json" for name in ("a", "b")]
    for name, (file, manifest) in zip("ab", found, strict=True):
        (step,) = trace_lineage(tmp_path, manifest, file.name)
        assert step.sources[0].path == f"{name}.jsonl"
        assert step.result == tmp_path.resolve() / f"my-{name}_text_document"


def test_foreign_file_is_not_overwritten(
    quickstart_inputs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = write_rows(tmp_path / "data.jsonl", ["some text"])
    (tmp_path / "x_text_document.idx").write_text("made by another program")
    given = flags([data], tmp_path / "x", quickstart_inputs / "tokenizer")
    assert main(given) == 2
    assert "the file would be overwritten" in capsys.readouterr().err
    assert {file.name for file in tmp_path.iterdir()} == {"data.jsonl", "x_text_document.idx"}


def test_killed_attempt_is_replaced_by_one_with_other_settings(quickstart_inputs: Path, tmp_path: Path) -> None:
    data = write_rows(tmp_path / "data.jsonl", ["some text"])
    given = flags([data], tmp_path / "x", quickstart_inputs / "tokenizer")
    config = parse_flags([*given, "--append-eod"])
    PreprocessOutputs(config, expand_inputs(config.input)).start()
    assert manifest_of(tmp_path / "x").status == "running"
    assert main(given) == 0
    assert manifest_of(tmp_path / "x").status == "complete"


def test_a_write_that_fails_leaves_nothing_that_is_taken_for_complete(
    quickstart_inputs: Path, passages: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = write_rows(tmp_path / "data.jsonl", passages[:1000])
    write_gpt2_like(tmp_path / "tokenizer")
    given = {name: flags([data], tmp_path / name / "x", tmp_path / "tokenizer") for name in ("one", "other")}
    former = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, former[1]))
    try:
        assert main(given["one"]) == 2
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, former)
    assert f"file = {tmp_path / 'one' / 'x_text_document.bin'}\n      why:    File too large" in capsys.readouterr().err
    assert not (tmp_path / "one").exists() or {file.name for file in (tmp_path / "one").iterdir()} == {
        "x_text_document.manifest.json"
    }
    for arguments in given.values():
        assert main(arguments) == 0
    one, other = ((tmp_path / name / "x_text_document.bin").read_bytes() for name in given)
    assert one == other


def test_damaged_file_is_an_error_even_if_bad_rows_are_skipped(
    quickstart_inputs: Path, passages: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole, cut = (write_rows(tmp_path / name, passages[:400]) for name in ("a.jsonl.gz", "b.jsonl.gz"))
    cut.write_bytes(cut.read_bytes()[: cut.stat().st_size // 2])
    given = flags([whole, cut], tmp_path / "out" / "x", quickstart_inputs / "tokenizer", "--bad-input", "skip")
    assert main(given) == 2
    said = capsys.readouterr().err
    readable = int(said.partition("cannot be read beyond row ")[2].partition(":")[0])
    assert str(cut) in said and 100 < readable < 300
    assert not (tmp_path / "out").exists()


def test_bad_row_is_an_error_and_a_fixed_run_may_reuse_the_folder(
    quickstart_inputs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = write_rows(tmp_path / "data.jsonl", ["good"])
    with data.open("ab") as rows:
        rows.write(BROKEN_UTF8)
    given = flags([data], tmp_path / "out" / "x", quickstart_inputs / "tokenizer")
    assert main(given) == 2
    assert f"{data}:2" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    assert main([*given, "--bad-input", "skip"]) == 0
    assert "1 rows could not be read" in capsys.readouterr().out


def test_finished_stage_is_skipped_and_changed_input_is_refused(
    quickstart_inputs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = write_rows(tmp_path / "data.jsonl", ["some text"])
    given = flags([data], tmp_path / "out" / "x", quickstart_inputs / "tokenizer")
    assert main(given) == 0
    made = (tmp_path / "out" / "x_text_document.bin").stat().st_mtime_ns
    assert main(given) == 0
    assert "nothing to do" in capsys.readouterr().err
    assert (tmp_path / "out" / "x_text_document.bin").stat().st_mtime_ns == made
    write_rows(data, ["other text"])
    assert main(given) == 2
    assert "holds another run's result" in capsys.readouterr().err


def test_all_problems_are_reported_at_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = flags([tmp_path / "absent.jsonl"], tmp_path / "out" / "x", tmp_path / "no_tokenizer")
    assert main([*given, "--json-keys", "a/b"]) == 2
    said = capsys.readouterr().err
    for field in ("input", "tokenizer_model", "json_keys"):
        assert f"{field} = " in said
    assert main([*given, "--workers", "-1", "--bad-input", "ignore", "--log-interval", "0"]) == 2
    said = capsys.readouterr().err
    for field in ("workers", "bad_input", "log_interval"):
        assert f"{field} = " in said
    assert main(["wrokers=2", "--input", "x"]) == 2
    said = capsys.readouterr().err
    assert "did you mean workers?" in said
    assert "output_prefix = (not set)" in said


def test_input_without_tokens_is_refused(
    quickstart_inputs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = write_rows(tmp_path / "data.jsonl", ["", ""])
    assert main(flags([data], tmp_path / "out" / "x", quickstart_inputs / "tokenizer")) == 2
    assert "the input has no tokens" in capsys.readouterr().err


def test_tokenizer_without_eos_is_refused_before_the_first_row(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tokenizer = write_gpt2_like(tmp_path / "tokenizer")
    (tokenizer / "tokenizer_config.json").write_text('{"model_max_length": 1024}', encoding="utf-8")
    (tokenizer / "config.json").write_text('{"model_type": "gpt2"}', encoding="utf-8")
    (tmp_path / "data.jsonl").write_bytes(BROKEN_UTF8)
    assert main(flags([tmp_path / "data.jsonl"], tmp_path / "out" / "x", tokenizer, "--append-eod")) == 2
    said = capsys.readouterr().err
    assert "names no EOS token" in said
    assert "not valid UTF-8" not in said
    assert not (tmp_path / "out").exists()


def test_flags_and_file_form_one_configuration(tmp_path: Path) -> None:
    file = tmp_path / "preprocess.yaml"
    file.write_text("input: [a]\noutput_prefix: out/x\ntokenizer_model: t\nappend_eod: true\nworkers: 3\n")
    flags_alone = ["--input", "a", "--output-prefix", "out/x", "--tokenizer-model", "t", "--append-eod"]
    assert parse_flags(["--config", str(file)]) == parse_flags([*flags_alone, "--workers", "3"])
    mixed = parse_flags(["--config", str(file), "log_interval=5", "--no-append-eod", "--input", "b", "c*"])
    assert (mixed.input, mixed.append_eod, mixed.log_interval, mixed.workers) == (["b", "c*"], False, 5, 3)
    with pytest.raises(UserError, match="workers = many"):
        parse_flags([*flags_alone, "--workers", "many"])


def test_difference_from_tokenizers_is_detected_and_corrected(
    quickstart_inputs: Path,
    passages: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """gigatoken with a defect that the probe texts do not reveal."""

    class Faulty(GigatokenEncoder):
        def encode(self, texts: Sequence[str]) -> EncodedTexts:
            encoded = super().encode(texts)
            ids = encoded.ids.copy()
            for text, end in zip(texts, np.cumsum(encoded.lengths), strict=True):
                if text == passages[20]:
                    ids[end - 1] += 1
            return EncodedTexts(ids, encoded.lengths)

    monkeypatch.setattr(encoders, "GigatokenEncoder", Faulty)
    data = write_rows(tmp_path / "data.jsonl", passages[:40])
    assert main(flags([data], tmp_path / "out" / "x", quickstart_inputs / "tokenizer")) == 0
    assert f"gigatoken and tokenizers differ on {data}:21" in capsys.readouterr().err
    tokenizer = AutoTokenizer.from_pretrained(quickstart_inputs / "tokenizer")
    read = IndexedDataset(str(tmp_path / "out" / "x_text_document"))
    for index, text in enumerate(passages[:40]):
        assert read[index].tolist() == tokenizer.encode(text, add_special_tokens=False)
    assert manifest_of(tmp_path / "out" / "x").counts["tokenizer"]["encoder"] == "tokenizers"


def test_preprocessing_imports_no_torch(quickstart_inputs: Path, tmp_path: Path) -> None:
    data = write_rows(tmp_path / "data.jsonl", ["some text"])
    given = flags([data], tmp_path / "out" / "x", quickstart_inputs / "tokenizer")
    program = f"from megatron_ipt.cli.preprocess_data import main; import sys; assert main({given!r}) == 0\n"
    program += "print({'torch', 'megatron', 'transformers'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "set()"
