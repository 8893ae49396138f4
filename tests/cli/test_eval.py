"""eval, embed and search: every source of embeddings, every protocol, every way to say what was found."""

import json
import re
import shutil
from hashlib import blake2b

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from timm import create_model

from pml_center.cli import main
from pml_center.cli.sources import groups_by_name
from pml_center.data import digits
from pml_center.evaluation import RetrievalEvaluator, Samples, VerificationEvaluator, load_samples, save_samples

QUICK = ("--ci", "none", "--workers", "0")
SMALL = ("--no-pretrained", "--image-size", "32", "--workers", "0")
pytestmark = pytest.mark.usefixtures("sketched")


@pytest.fixture(scope="module")
def where(tmp_path_factory):
    """A folder with images, the same as a zip file, their embeddings by a run, and LFW's kind of pairs."""
    folder = tmp_path_factory.mktemp("where")
    data = digits()
    numbers = {}
    for i in range(120):
        image, label = data[i]
        numbers[label] = numbers.get(label, 0) + 1
        path = folder / "photos" / f"digit{label}" / f"digit{label}_{numbers[label]:04d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        image.save(path)
    shutil.make_archive(str(folder / "photos"), "zip", folder / "photos")
    arguments = ["--model", "convnet", "--image-size", "8", "--epochs", "1", "--workers", "0", "--held-out", "0"]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        main(["train", "digits", *arguments, "--out", "run"])
        main(["embed", "run", "photos", "--out", "rows", "--workers", "0"])
    lines = ["2 2", "digit0 1 2", "digit1 1 2", "digit0 1 digit1 1", "digit2 1 digit3 1"]
    lines += ["digit2 1 2", "digit3 1 2", "digit4 1 digit5 1", "digit6 1 digit7 1"]
    (folder / "pairs.txt").write_text("\n".join(lines) + "\n")
    table = ["first,second,same,fold", "digit0/digit0_0001.png,digit0/digit0_0002.png,1,a"]
    table += ["digit1/digit1_0001.png,digit2/digit2_0001.png,0,a", "digit3/digit3_0001.png,digit3/digit3_0002.png,1,b"]
    table += ["digit4/digit4_0001.png,digit5/digit5_0001.png,0,b"]
    (folder / "pairs.csv").write_text("\n".join(table) + "\n")
    return folder


@pytest.fixture
def asked(run):
    """A function that runs a command with --json, and reads the one object that it prints."""
    return lambda *arguments: json.loads(run(*arguments, "--json"))


def test_embed_writes_what_eval_reads(run, asked, where):
    samples = load_samples(where / "rows")
    assert samples.embeddings.shape == (120, 64)
    assert samples.labels[0] == "digit0"
    assert samples.names[0] == str(where / "photos" / "digit0" / "digit0_0001.png")
    own = RetrievalEvaluator(ci=None)(samples.embeddings, samples.labels)
    found = asked("eval", "rows", *QUICK)["reports"]["retrieval"]
    assert found["metrics"] == own.metrics
    facts = asked("embed", "run", "photos", "--out", "again", "--workers", "0")
    assert facts["shape"] == [120, 64]
    assert facts["data"] == str(where / "photos")


def test_a_model_and_images_score_as_their_embeddings_do(asked):
    by_model = asked("eval", "run", "photos", *QUICK)
    by_archive = asked("eval", "run", "photos.zip", *QUICK)
    by_rows = asked("eval", "rows", *QUICK)
    assert by_model["reports"] == by_archive["reports"] == by_rows["reports"]
    assert by_model["pixels"]["metrics"].keys() == by_model["reports"]["retrieval"]["metrics"].keys()
    assert "pixels" not in by_rows


def test_several_protocols_in_one_command(run, asked, where):
    protocols = ["retrieval", "verification", "identification", "clustering", "fewshot"]
    options = ("--protocol", *protocols, "--shots", "2", "--queries", "3", "--resamples", "20")
    out = run("eval", "rows", *options, "--report", "page.html")
    for words in ("leave-one-out", "all pairs", "the first image of each class enrolled", "k-means", "5-way 2-shot"):
        assert words in out
    assert [line for line in out.splitlines() if line in protocols] == protocols
    page = (where / "page.html").read_text(encoding="utf-8")
    assert page.count("data:image/jpeg") > 100
    assert "Few-shot" in page
    assert f"<td>{where / 'rows'}</td>" in page
    assert "<h1>rows</h1>" in page
    found = asked("eval", "rows", *options)
    assert list(found["reports"]) == protocols
    assert found["schema"] == 1
    assert found["reports"]["verification"]["thresholds"]


def test_the_folder_of_a_run_gets_the_reports(run, where):
    out = run("eval", "run", "photos", "--protocol", "retrieval", "clustering", "--report", "run.html", *QUICK)
    assert "raw pixels" in out
    [folder] = (where / "run" / "eval").glob("photos-*")
    files = {f"{name}.{kind}" for name in ("report", "before", "pixels", "clustering") for kind in ("json", "csv")}
    assert {path.name for path in folder.iterdir()} == files
    page = (where / "run.html").read_text(encoding="utf-8")
    assert "Training" in page
    assert re.search(r"<h1>\w+ with SoftmaxLoss.*, on photos</h1>", page)


@pytest.mark.parametrize("file", ["pairs.txt", "pairs.csv"])
def test_pairs_come_from_a_file(asked, run, file, where):
    report = asked("eval", "rows", "--pairs", file, *QUICK)["reports"]["verification"]
    assert report["counts"] == {"pairs": 8 if file == "pairs.txt" else 4, **halves(file), "folds": 2}
    assert "accuracy" in report["metrics"]
    run("eval", "rows", "--pairs", file, *QUICK, "--report", "pairs.html")
    assert "Plots of pairs" in (where / "pairs.html").read_text(encoding="utf-8")


def halves(file):
    return dict.fromkeys(("genuine", "impostor"), 4 if file == "pairs.txt" else 2)


def test_speakers_are_verified_by_trials_with_a_cohort(run, asked, where):
    """Vectors that are no images: an array, their ids, and trials; and a cohort of others."""
    rng = np.random.default_rng(0)
    speakers = np.repeat(np.arange(12), 5)
    rows = rng.normal(size=(12, 8))[speakers] + 0.5 * rng.normal(size=(60, 8))
    ids = [f"spk{speaker}/utt{row}" for row, speaker in enumerate(speakers)]
    np.save(where / "speech.npy", rows.astype(np.float32))
    for name, lines in (("speakers", map(str, speakers)), ("ids", ids)):
        (where / f"{name}.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    first, second = np.triu_indices(60, 1)
    words = np.where(speakers[first] == speakers[second], "target", "nontarget")
    trials = [f"{ids[one]} {ids[other]} {word}" for one, other, word in zip(first, second, words, strict=True)]
    (where / "trials.txt").write_text("\n".join(trials) + "\n", encoding="utf-8")
    cohort = rng.normal(size=(50, 8)).astype(np.float32)
    save_samples(where / "cohort", Samples(cohort, list(range(50))))
    given = ("eval", "speech.npy", "speakers.txt", "--names", "ids.txt", "--ci", "none", "--p-target", "0.01", "0.05")
    found = asked(*given, "--pairs", "trials.txt", "--cohort", "cohort", "--top-n", "20")
    own = VerificationEvaluator(p_target=(0.01, 0.05), top_n=20, ci=None)(
        rows.astype(np.float32), speakers, where / "trials.txt", ids, cohort
    )
    assert found["reports"]["verification"]["metrics"] == own.metrics
    assert own.protocol == "cosine similarity, AS-Norm by the 20 nearest of a cohort of 50"
    assert found["cohort"] == {"embeddings": str(where / "cohort")}
    refused = run("eval", "rows", "--cohort", "cohort", code=2)
    assert "--cohort must come with --protocol verification, got retrieval" in refused
    assert "--p-target must come with --protocol verification" in run("eval", "rows", "--p-target", "0.1", code=2)
    refused = run(*given, "--pairs", "trials.txt", "--cohort", "nowhere", code=2)
    assert "--cohort must be a folder of `pml-center embed` where speech.npy holds embeddings, got nowhere" in refused


def test_pairs_of_images_that_are_not_there_are_named(run, where):
    (where / "more.csv").write_text("first,second,same\ndigit0_0001.png,digit0_0999.png,1\n")
    assert "got 'digit0_0999.png'" in run("eval", "rows", "--pairs", "more.csv", code=2)
    (where / "less.csv").write_text("first,second\na,b\n")
    assert "without same" in run("eval", "rows", "--pairs", "less.csv", code=2)
    (where / "other.csv").write_text("first,second,same\na,b,yes\n")
    assert "same must be 0 or 1, got 'yes'" in run("eval", "rows", "--pairs", "other.csv", code=2)
    assert "pairs must be an existing file, got 'no.txt'" in run("eval", "rows", "--pairs", "no.txt", code=2)


@pytest.mark.parametrize("gallery", ["others", "others.zip", "other-rows"])
def test_a_gallery_is_another_set_to_search_in(run, asked, where, gallery):
    if not (where / "others").exists():
        for i in range(120, 180):
            image, label = digits()[i]
            path = where / "others" / f"digit{label}" / f"{i}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            image.save(path)
        shutil.make_archive(str(where / "others"), "zip", where / "others")
        run("embed", "run", "others", "--out", "other-rows", "--workers", "0")
    arguments = ("--gallery", gallery, "--protocol", "retrieval", "identification", *QUICK)
    found = asked("eval", "run", "photos", *arguments, "--report", "gallery.html")
    assert found["reports"]["retrieval"]["counts"]["references"] == 60
    assert found["reports"]["identification"]["counts"]["references"] == 60
    assert "separate references" in found["reports"]["retrieval"]["protocol"]
    assert ("pixels" in found) == (gallery != "other-rows")  # of which there are embeddings alone
    assert "data:image/jpeg" in (where / "gallery.html").read_text(encoding="utf-8")


def test_an_open_set_is_judged_by_a_gallery_or_by_the_logits_of_a_run(run, asked, where):
    for i in range(180, 220):
        image, label = digits()[i]
        path = where / "mixed" / (str(label) if label < 6 else f"new{label}") / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        image.save(path)
    openset = ("--protocol", "openset", "--workers", "0", "--resamples", "20")
    found = asked("eval", "run", "mixed", *openset, "--report", "open.html")["reports"]["openset"]
    assert found["protocol"] == "the logits of SoftmaxLoss"
    assert found["counts"]["known classes"] == 10
    assert found["counts"]["known"] + found["counts"]["unknown"] == 40
    assert set(found["ci"]) == set(found["metrics"])
    assert "oscr" in (where / "open.html").read_text(encoding="utf-8").lower()
    run("embed", "run", "mixed", "--out", "mixed-rows", "--workers", "0")
    assert "--gallery must be given for --protocol openset" in run("eval", "mixed-rows", *openset, code=2)
    samples = load_samples(where / "mixed-rows")
    few = [row for row, label in enumerate(samples.labels) if label in "012"]
    rows, labels, names = (np.asarray(samples[place])[few] for place in (0, 1, 3))
    save_samples(where / "known", Samples(rows + 0.1, labels.tolist(), names=[f"k/{name}" for name in names]))
    report = asked("eval", "mixed-rows", "--gallery", "known", *openset)["reports"]["openset"]
    assert report["counts"] == {"queries": 40, "known": len(few), "unknown": 40 - len(few), "references": len(few)}


def test_groups_are_read_from_names_or_from_the_folder(run, asked, where):
    everybody = asked("eval", "rows", *QUICK)["reports"]["retrieval"]
    apart = asked("eval", "rows", "--groups", "_00([0-9])", *QUICK)["reports"]["retrieval"]
    assert "same label and group" in apart["protocol"]
    assert apart["metrics"] != everybody["metrics"]
    samples = load_samples(where / "rows")
    groups = groups_by_name("_00([0-9])", samples.names)
    save_samples(where / "grouped", Samples(samples.embeddings, samples.labels, groups, samples.names))
    assert asked("eval", "grouped", *QUICK)["reports"]["retrieval"] == apart
    assert "got '(' (" in run("eval", "rows", "--groups", "(", code=2)
    assert "digit0_0001.png' which" in run("eval", "rows", "--groups", "_c([0-9])", code=2)


@pytest.mark.parametrize("kind", ["npy", "txt"])
def test_arrays_have_their_labels_in_a_file(run, asked, where, kind):
    samples = load_samples(where / "rows")
    np.save(where / "embeddings.npy", samples.embeddings)
    np.save(where / "labels.npy", np.array(samples.labels))
    (where / "labels.txt").write_text("\n".join(samples.labels))
    found = asked("eval", "embeddings.npy", f"labels.{kind}", *QUICK, "--report", "arrays.html")
    assert found["reports"] == asked("eval", "rows", *QUICK)["reports"]
    assert found["labels"] == f"labels.{kind}"
    assert "row " in (where / "arrays.html").read_text(encoding="utf-8")
    assert "labels must be given" in run("eval", "embeddings.npy", code=2)
    assert "got 'no.npy'" in run("eval", "no.npy", "labels.npy", code=2)
    np.save(where / "texts.npy", np.array(["a", "b"]))
    assert "embeddings must be real numbers" in run("eval", "texts.npy", "labels.npy", code=2)
    (where / "broken.npy").write_text("no array")
    assert "array must be an .npy file" in run("eval", "broken.npy", "labels.npy", code=2)


def test_an_embedding_folder_takes_no_data(run):
    assert "data must be left out because rows holds embeddings, got photos" in run("eval", "rows", "photos", code=2)


@pytest.mark.parametrize("source", ["weights", "local-dir"])
def test_any_timm_model_with_its_weights(asked, where, source):
    torch.manual_seed(0)
    trunk = create_model("test_vit", num_classes=0, img_size=32)
    if source == "weights":
        save_file(trunk.state_dict(), where / "vit.safetensors")
        model = ("test_vit", "--weights", "vit.safetensors")
    else:
        (where / "export").mkdir()
        save_file(trunk.state_dict(), where / "export" / "model.safetensors")
        inputs = {"input_size": [3, 32, 32], "mean": [0.5] * 3, "std": [0.5] * 3, "num_classes": 0}
        config = {"architecture": "test_vit", "num_classes": 0, "pretrained_cfg": inputs}
        (where / "export" / "config.json").write_text(json.dumps(config))
        model = (f"local-dir:{where / 'export'}",)
    found = asked("eval", model[0], "photos", *model[1:], "--image-size", "32", *QUICK)
    assert found["images"] == 120
    flipped = asked("eval", model[0], "photos", *model[1:], "--image-size", "32", "--flip-test", *QUICK)
    assert flipped["reports"] != found["reports"]
    random = asked("eval", "test_vit", "photos", *SMALL, "--ci", "none")
    assert random["reports"] != found["reports"]


def test_random_weights_are_mentioned(run, caplog):
    run("eval", "test_vit", "photos", *SMALL, "--ci", "none")
    assert "test_vit has random weights" in caplog.text


def test_a_run_is_taken_as_it_is(run):
    error = run("eval", "run", "photos", "--image-size", "64", "--channels", "3", code=2)
    assert "got --image-size and --channels" in error


def test_a_second_eval_embeds_nothing_again(run, caplog):
    run("eval", "run", "photos", *QUICK)
    caplog.clear()
    run("eval", "run", "photos", "--protocol", "clustering", "--workers", "0")
    assert "embeddings of 120 images are in the cache" in caplog.text
    caplog.clear()
    run("eval", "run", "photos", *QUICK, "--no-cache")
    assert "cache" not in caplog.text


def test_search_finds_an_image_among_its_like(run, asked, where):
    image = "photos/digit3/digit3_0002.png"
    out = run("search", "rows", image, "--k", "3", "--report", "found.html")
    assert image in out
    assert "digit3_0002.png" in out
    page = (where / "found.html").read_text(encoding="utf-8")
    assert page.count("data:image/jpeg") == 4
    found = asked("search", "rows", image, "photos/digit0/digit0_0001.png", "--k", "500")["neighbours"]
    assert [len(rows) for rows in found.values()] == [120, 120]
    first = found[image][0]
    assert first == {"rank": 1, "score": 1.0, "label": "digit3", "image": str(where / image)}


def test_search_refuses_a_model_that_is_not_the_one_of_the_embeddings(run, where):
    shutil.copytree(where / "rows", where / "stale")
    facts = json.loads((where / "stale" / "model.json").read_text())
    (where / "stale" / "model.json").write_text(json.dumps(facts | {"fingerprint": "another"}))
    image = "photos/digit3/digit3_0002.png"
    assert "got other weights" in run("search", "stale", image, code=2)
    (where / "stale" / "model.json").unlink()
    assert "without model.json" in run("search", "stale", image, code=2)


def test_a_missing_package_is_another_exit_code(run, monkeypatch):
    def missing(*arguments, **options):
        raise ImportError("faiss is not installed: pip install faiss-cpu")

    monkeypatch.setattr("pml_center.cli.protocols.RetrievalEvaluator", missing)
    assert run("eval", "rows", code=3) == "pml-center: faiss is not installed: pip install faiss-cpu\n"


def test_group_is_the_whole_match_where_there_are_no_parentheses():
    assert groups_by_name("c[0-9]", ["a_c1.png", "b_c2.png"]) == ["c1", "c2"]
    with pytest.raises(ValueError, match="embeddings without names"):
        groups_by_name("c", None)


@pytest.mark.shared_data
def test_lfw_in_one_command(asked, shared_data, where):
    """Raw features of a small random network: that the protocols fit together, in seconds."""
    lfw = shared_data / "lfw"
    options = ("--no-pretrained", "--image-size", "16", "--workers", "2", "--ci", "none")
    protocols = ("--protocol", "retrieval", "verification", "identification", "--pairs", lfw / "pairs.txt")
    found = asked("eval", "test_vit", lfw / "lfw_aligned_112.zip", *options, *protocols, "--far", "0.1", "0.01")
    retrieval, verification, identification = (found["reports"][name] for name in protocols[1:4])
    assert retrieval["counts"] == {"queries": 9164, "references": 13233, "skipped": 4069, "duplicates": 0}
    assert verification["counts"] == {"pairs": 6000, "genuine": 3000, "impostor": 3000, "folds": 10}
    assert identification["counts"]["references"] == 5749
    assert verification["metrics"]["accuracy"] > 0.5


def test_rows_of_an_array_get_their_paths_by_a_file(run, asked, where):
    samples = load_samples(where / "rows")
    np.save(where / "plain.npy", samples.embeddings)
    (where / "plain.txt").write_text("\n".join(samples.labels) + "\n", encoding="utf-8")
    (where / "names.txt").write_text("\n".join(samples.names) + "\n", encoding="utf-8")
    plain = ("eval", "plain.npy", "plain.txt", "--pairs", "pairs.csv", *QUICK)
    expected = asked("eval", "rows", "--pairs", "pairs.csv", *QUICK)["reports"]
    assert asked(*plain, "--names", "names.txt")["reports"] == expected
    assert "Give --names, a text file with the path of each row" in run(*plain, code=2)
    assert "names must be an existing file, got 'no.txt'" in run(*plain, "--names", "no.txt", code=2)
    assert "--names must come with an .npy file" in run("eval", "rows", "--names", "names.txt", code=2)
    (where / "names.txt").write_text("\n".join([samples.names[0], "", *samples.names[2:]]) + "\n", encoding="utf-8")
    assert "names must be one a line, got an empty line 2" in run(*plain, "--names", "names.txt", code=2)


def test_no_option_of_eval_is_without_effect(run):
    refused = run("eval", "rows", "--protocol", "clustering", "--gallery", "rows", code=2)
    assert "--gallery must come with --protocol retrieval or identification or openset, got clustering" in refused
    refused = run("eval", "rows", "--protocol", "identification", "--groups", "_c", code=2)
    assert "--groups must come with --protocol retrieval, got identification" in refused


def test_embeddings_are_measured_cut_too(run, asked, where):
    samples = load_samples(where / "rows")
    first = ("eval", "rows", *QUICK, "--widths", "4x16")
    reports = asked(*first, "--protocol", "retrieval", "clustering")["reports"]
    assert list(reports) == ["retrieval", "clustering", "retrieval-4", "retrieval-16", "clustering-4", "clustering-16"]
    for width in (4, 16):
        metrics = RetrievalEvaluator(ci=None)(np.asarray(samples.embeddings)[:, :width], samples.labels).metrics
        assert reports[f"retrieval-{width}"]["metrics"] == pytest.approx(metrics)
    others = np.asarray(samples.embeddings)[::3] + 0.5
    save_samples(where / "cut-gallery", Samples(others, samples.labels[::3]))
    again = asked("eval", "rows", *QUICK, "--widths", "4", "--gallery", "cut-gallery")["reports"]["retrieval-4"]
    found = RetrievalEvaluator(ci=None)(samples.embeddings[:, :4], samples.labels, others[:, :4], samples.labels[::3])
    assert again["metrics"] == pytest.approx(found.metrics)
    printed = run(*first, "--report", "cut.html")
    assert "first 4" in printed
    assert "first 16" in printed
    assert re.search("with the first 4 numbers, .* with the first 16 numbers", (where / "cut.html").read_text())
    refused = run("eval", "rows", *QUICK, "--widths", "16x128", code=2)
    assert "widths must be at most the 64 numbers of an embedding, got 128 for rows. Leave it out." in refused
    assert "widths must be whole numbers with x between them" in run("eval", "rows", "--widths", "16,128", code=2)


def test_a_user_reads_the_words_that_were_typed(run):
    assert "data must be an existing folder, got" in run("embed", "run", "nowhere", "--out", "new", code=2)
    assert "--ci-level must be in (0, 1), got 2" in run("eval", "rows", "--ci-level", "2", code=2)


def test_a_broken_record_of_a_model_is_named(run, where):
    shutil.copytree(where / "rows", where / "broken")
    image = next((where / "photos").rglob("*.png"))
    for text, words in (("{", "model.json must be what"), ('{"model": "x"}', "without fingerprint")):
        (where / "broken" / "model.json").write_text(text)
        assert words in run("search", "broken", image, code=2)


def test_rows_that_were_sorted_otherwise_are_refused(run, where):
    shutil.copytree(where / "rows", where / "sorted")
    path = where / "sorted" / "samples.csv"
    header, *lines = path.read_text().splitlines()
    path.write_text("\n".join([f"{header},group", *(f"{line},{i}" for i, line in enumerate(lines))]))
    run("eval", "sorted", *QUICK)
    path.write_text("\n".join([header, *lines[::-1]]))
    for command in (("eval", "sorted"), ("search", "sorted", str(next((where / "photos").rglob("*.png"))))):
        assert "samples.csv must have its rows in the order of embeddings.npy" in run(*command, code=2)


def test_rows_that_were_sorted_and_edited_are_refused_and_edited_ones_are_not(run, where):
    """In folders of an earlier version as far as it wrote the order down."""
    shutil.copytree(where / "rows", where / "edited")
    path, facts = where / "edited" / "samples.csv", where / "edited" / "model.json"
    header, first, *lines = path.read_text().splitlines()
    moved = [header, first.replace("photos", "elsewhere"), *lines]
    path.write_text("\n".join(moved))
    run("eval", "edited", *QUICK)
    path.write_text("\n".join([header, *moved[:0:-1]]))
    said = "samples.csv must have its rows in the order of embeddings.npy"
    assert said in run("eval", "edited", *QUICK, code=2)
    names = load_samples(where / "rows").names
    digests = [blake2b("\n".join(each).encode(), digest_size=16).hexdigest() for each in (sorted(names), names)]
    facts.write_text(json.dumps(json.loads(facts.read_text()) | {"order": digests}))
    path.write_text("\n".join([header, *lines[::-1], first]))
    assert said in run("eval", "edited", *QUICK, code=2)
    path.write_text("\n".join([header, first, *lines]))
    run("eval", "edited", *QUICK)


def test_embeddings_that_are_damaged_are_refused(run, where):
    shutil.copytree(where / "rows", where / "damaged")
    path = where / "damaged" / "embeddings.npy"
    content = bytearray(path.read_bytes())
    content[-3] ^= 0x40
    path.write_bytes(content)
    for command in (("eval", "damaged"), ("search", "damaged", str(next((where / "photos").rglob("*.png"))))):
        assert "embeddings.npy must be as `pml-center embed` wrote it" in run(*command, code=2)


def test_a_gallery_of_another_model_is_said(run, asked, where):
    shutil.copytree(where / "rows", where / "theirs")
    path = where / "theirs" / "model.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"fingerprint": "of another run", "sum": None}))
    rows = load_samples(where / "theirs")
    save_samples(where / "theirs", rows._replace(embeddings=rows.embeddings[:, ::-1]))
    found = asked("eval", "rows", "--gallery", "theirs", *QUICK)["reports"]["retrieval"]
    [warning] = found["warnings"]
    assert warning == "queries and gallery were not embedded alike: theirs is of other weights or another input"


def test_embeddings_that_were_not_written_to_their_end_are_no_embeddings(run, where, monkeypatch):
    shutil.copytree(where / "rows", where / "half")
    with monkeypatch.context() as patch:
        patch.setattr("csv.writer", None)
        with pytest.raises(TypeError):
            run("embed", "run", "photos", "--out", "half", "--workers", "0", "--debug")
    assert "without samples.csv" in run("eval", "half", code=2)


def test_what_was_measured_is_printed_where_it_cannot_be_kept(command, trained, monkeypatch, caplog):
    def refuse(*_):
        raise PermissionError(13, "Permission denied", "eval")

    monkeypatch.setattr("pml_center.training.Run.write_reports", refuse)
    out, _, code = command("eval", trained / "small", "digits", "--workers", 0, "--ci", "none")
    assert (code, "reports are not kept: [Errno 13] Permission denied" in caplog.text) == (0, True)
    assert "recall_at_1" in out
