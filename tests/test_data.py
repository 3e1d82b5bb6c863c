"""CIFAR-100 is got safely or not at all, written as the algorithm wants it, and never confused with drawn images."""

import contextlib
import gzip
import hashlib
import io
import os
import pickle
import tarfile
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
from PIL import Image

from scones import data
from scones.archive import ArchiveRefused, UnknownClass, class_names, read_archive

CLASSES = ("bicycle", "motorcycle")
NAMES = [b"apple", b"bicycle", b"motorcycle"]
LABELS = {"train": [1, 0, 2, 2, 1, 0], "test": [2, 0, 1]}


def table(split: str) -> dict:
    """A split of tiny CIFAR-100: every image has one colour, its row's number in red and 200 in blue."""
    labels = LABELS[split]
    pixels = np.zeros((len(labels), 3, 1024), np.uint8)
    pixels[:, 0] = np.arange(len(labels))[:, None]
    pixels[:, 2] = 200
    names = [f"{NAMES[label].decode()}_s_{row:06d}.png".encode() for row, label in enumerate(labels)]
    return {b"data": pixels.reshape(len(labels), 3072), b"fine_labels": labels, b"filenames": names}


def members() -> dict[str, bytes]:
    tables = {"meta": {b"fine_label_names": NAMES}, "train": table("train"), "test": table("test")}
    return {f"cifar-100-python/{name}": pickle.dumps(content, 2) for name, content in tables.items()}


def pack(path, files: dict[str, bytes], *others: tarfile.TarInfo):
    with tarfile.open(path, "w:gz") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
        for member in others:
            archive.addfile(member)
    return path


@pytest.fixture
def archive(tmp_path):
    return pack(tmp_path / "archive.tar.gz", members())


@pytest.fixture(autouse=True)
def no_archive_of_the_environment(monkeypatch, request):
    if "real_archive" not in request.fixturenames:
        monkeypatch.delenv("CIFAR100_ARCHIVE", raising=False)


@pytest.fixture
def real_archive():
    if not os.environ.get("CIFAR100_ARCHIVE"):
        pytest.skip("CIFAR100_ARCHIVE names no archive")


class Download(BaseHTTPRequestHandler):
    """/whole gives the archive, /half breaks off in its middle, /silent gives it without its length."""

    content = b""
    requests = 0

    def do_GET(self):
        type(self).requests += 1
        if self.path == "/missing":
            self.send_error(404)
            return
        self.send_response(200)
        if self.path != "/silent":
            self.send_header("Content-Length", str(len(self.content)))
        self.end_headers()
        self.wfile.write(self.content if self.path != "/half" else self.content[: len(self.content) // 2])

    def log_message(self, *_): ...


@pytest.fixture
def served(archive):
    """(address, md5, the handler class) of a server on this machine that gives the archive."""
    handler = type("Served", (Download,), {"content": archive.read_bytes(), "requests": 0})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", hashlib.md5(archive.read_bytes()).hexdigest(), handler
    server.shutdown()
    server.server_close()
    thread.join()


def test_the_classes_asked_for_are_kept_and_numbered_in_their_order(archive):
    dataset = data.get_cifar100(CLASSES, archive)
    assert dataset.train.names == [
        "bicycle_s_000000.png",
        "motorcycle_s_000002.png",
        "motorcycle_s_000003.png",
        "bicycle_s_000004.png",
    ]
    assert dataset.train.labels.tolist() == [0, 1, 1, 0]
    assert dataset.train.rows.tolist() == [0, 2, 3, 4]
    assert dataset.test.labels.tolist() == [1, 0]
    assert data.get_cifar100(CLASSES[::-1], archive).test.labels.tolist() == [0, 1]
    assert not dataset.drawn and dataset.note is None and dataset.source == str(archive)


def test_pixels_come_out_in_rows_of_red_green_and_blue(archive):
    pixels = data.get_cifar100(CLASSES, archive).train.pixels
    assert pixels.dtype == np.uint8 and pixels.shape == (4, 32, 32, 3)
    assert pixels[2].reshape(-1, 3).tolist() == [[3, 0, 200]] * 1024


def test_the_environment_names_the_archive(archive, monkeypatch):
    monkeypatch.setenv("CIFAR100_ARCHIVE", str(archive))
    assert len(data.get_cifar100().train) == 4


def test_a_pickle_of_python_2_is_read(tmp_path):
    """The official archive was written by Python 2: texts are its byte strings, and numpy is that of its time."""
    old = members()
    body = pickle.dumps(table("test"), 2).replace(b"numpy._core.multiarray", b"numpy.core.multiarray")
    old["cifar-100-python/test"] = body
    old["cifar-100-python/meta"] = (
        b"\x80\x02}q\x01U\x10fine_label_namesq\x02]q\x03(U\x05appleU\x07bicycleU\nmotorcycleq\x04es."
    )
    assert len(data.get_cifar100(CLASSES, pack(tmp_path / "old.tar.gz", old)).test) == 2


def test_images_and_lst_files_are_written_as_the_algorithm_reads_them(archive, tmp_path):
    dataset = data.get_cifar100(CLASSES, archive)
    frame = data.write_images(dataset, tmp_path / "images")
    assert (tmp_path / "images/test.lst").read_text() == "0\t1\tmotorcycle_s_000000.png\n2\t0\tbicycle_s_000002.png\n"
    for line in frame.itertuples():
        split = dataset.train if line.split == "train" else dataset.test
        expected = split.pixels[split.names.index(line.name)]
        assert np.array_equal(np.asarray(Image.open(line.path)), expected)
        assert frame.loc[line.Index, "class"] == CLASSES[line.label]
    assert frame.groupby("split").size().to_dict() == {"test": 2, "train": 4}


def test_images_of_an_earlier_data_set_are_not_left_among_the_new_ones(archive, tmp_path):
    for dataset in (data.draw_dataset(3, 2), data.get_cifar100(CLASSES, archive)):
        data.write_images(dataset, tmp_path / "images")
    assert sorted(path.name for path in (tmp_path / "images/test").iterdir()) == sorted(dataset.test.names)


def test_the_real_images_are_all_there(real_archive):
    dataset = data.get_cifar100()
    assert np.bincount(dataset.train.labels).tolist() == [500, 500]
    assert np.bincount(dataset.test.labels).tolist() == [100, 100]
    assert dataset.test.labels[dataset.test.names.index("bicycle_s_000513.png")] == 0


def test_any_of_the_real_classes_can_be_chosen_together(real_archive):
    path = os.environ["CIFAR100_ARCHIVE"]
    train, test = read_archive(path, class_names(path))
    assert (len(train), len(test)) == (50_000, 10_000)
    assert len(set(train.names)) == 50_000


def test_a_class_that_cifar_100_has_not_is_named_with_those_it_has(archive):
    with pytest.raises(UnknownClass, match=r"no classes \['scone'\].*apple, bicycle, motorcycle"):
        data.get_cifar100(("bicycle", "scone"), archive)


def test_a_given_archive_that_is_not_there_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no archive .*nowhere\.tar\.gz"):
        data.get_cifar100(archive=tmp_path / "nowhere.tar.gz")


def test_a_truncated_archive_is_refused_wherever_it_ends(archive):
    whole = archive.read_bytes()
    for end in (0, 1, 20, len(whole) // 2, len(whole) - 9, len(whole) - 1):
        archive.write_bytes(whole[:end])
        with pytest.raises(ArchiveRefused, match=r"(f|F)etch the archive again"):
            read_archive(archive, CLASSES)


def test_an_archive_with_a_changed_byte_is_refused_wherever_it_is(archive):
    whole = archive.read_bytes()
    header = 10 + len("archive.tar") + 1  # gzip's own, which holds the time and the file's name, has no checksum
    for place in (*range(header, len(whole), len(whole) // 40), len(whole) - 6):
        archive.write_bytes(whole[:place] + bytes([whole[place] ^ 0x55]) + whole[place + 1 :])
        with pytest.raises(ArchiveRefused):
            read_archive(archive, CLASSES)


class Malicious:
    def __reduce__(self):
        return os.mkdir, (self.folder,)


def test_a_pickle_that_would_run_something_is_refused_and_runs_nothing(tmp_path):
    Malicious.folder = str(tmp_path / "was_run")
    for content in (Malicious(), {**table("train"), b"data": Malicious()}):
        files = {**members(), "cifar-100-python/train": pickle.dumps(content, 2)}
        with pytest.raises(ArchiveRefused, match=r"posix\.mkdir|nt\.mkdir"):
            read_archive(pack(tmp_path / "evil.tar.gz", files), CLASSES)
        assert not (tmp_path / "was_run").exists()


@pytest.mark.parametrize(
    "instructions",
    [
        b"cbuiltins\neval\n.",
        b"cnumpy\nload\n.",
        b"cnumpy.core.multiarray\n_reconstruct\n(cbuiltins\nlist\nK\x00U\x01btR.",
        b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\ndtype\nK\x00U\x01btR.",
        b"cnumpy.core.multiarray\n_reconstruct\n}b.",
        b"cnumpy\nndarray\n}b.",
        b"c_codecs\nencode\n(X\x01\x00\x00\x00xX\x05\x00\x00\x00rot13tR.",
        b"c_codecs\nencode\n}U\x0b_bytes_leftJ\xff\xff\xff\x7fsb.",
        b"cnumpy\ndtype\n(U\x02O8tR.",
        b"Nr\xff\xff\xff\x7f.",
        b"\x96\xff\xff\xff\xff\xff\x00\x00\x00.",
        b"\x82\x01.",
        b"U\x04text.",
        b"",
    ],
)
def test_instructions_that_no_data_set_needs_are_refused(instructions, tmp_path):
    files = {**members(), "cifar-100-python/test": instructions}
    with pytest.raises(ArchiveRefused, match=r"not CIFAR-100's python archive|truncated"):
        read_archive(pack(tmp_path / "odd.tar.gz", files), CLASSES)


def test_any_damage_to_a_pickle_ends_in_a_dataset_or_a_refusal(tmp_path):
    rng = np.random.default_rng(0)
    whole = members()
    for _ in range(200):
        name = str(rng.choice(list(whole)))
        damaged = bytearray(whole[name])
        for _ in range(rng.integers(1, 4)):
            damaged[rng.integers(min(len(damaged), 400))] = rng.integers(256)
        path = pack(tmp_path / "damaged.tar.gz", {**whole, name: bytes(damaged)})
        with contextlib.suppress(ArchiveRefused, UnknownClass):
            assert data.get_cifar100(CLASSES, path).train.pixels.shape[1:] == (32, 32, 3)


@pytest.mark.parametrize("name", ["cifar-100-python/../../evil", "/etc/evil", "evil", "cifar-100-python-2/evil"])
def test_a_member_outside_of_the_folder_is_refused(name, tmp_path):
    with pytest.raises(ArchiveRefused, match="outside of cifar-100-python/"):
        read_archive(pack(tmp_path / "out.tar.gz", {**members(), name: b"x"}), CLASSES)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.tar.gz"]


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE])
def test_links_and_devices_are_refused(kind, tmp_path):
    member = tarfile.TarInfo("cifar-100-python/meta")
    member.type, member.linkname = kind, "/etc/passwd"
    with pytest.raises(ArchiveRefused, match="neither a file nor a folder"):
        read_archive(pack(tmp_path / "link.tar.gz", members(), member), CLASSES)


def test_a_member_that_says_it_is_huge_is_refused_before_it_is_read(tmp_path):
    member = tarfile.TarInfo("cifar-100-python/train")
    member.size = 2**40
    with gzip.open(tmp_path / "huge.tar.gz", "wb") as file:
        file.write(member.tobuf())
    with pytest.raises(ArchiveRefused, match="one of more than 268435456 bytes"):
        read_archive(tmp_path / "huge.tar.gz", CLASSES)


@pytest.mark.parametrize("name", [b"../evil.png", b"/evil.png", b".png", b"evil.sh", b"a/b.png", b"x\n.png"])
def test_a_file_name_that_is_no_plain_name_is_refused(name, tmp_path):
    evil = table("test")
    evil[b"filenames"][0] = name
    files = {**members(), "cifar-100-python/test": pickle.dumps(evil, 2)}
    with pytest.raises(ArchiveRefused, match="names an image"):
        read_archive(pack(tmp_path / "names.tar.gz", files), CLASSES)


def test_images_that_share_a_file_s_name_are_told_apart_by_their_rows(tmp_path):
    twice = table("test")
    twice[b"filenames"] = [b"same.png"] * len(twice[b"filenames"])
    _, test = read_archive(
        pack(tmp_path / "twice.tar.gz", {**members(), "cifar-100-python/test": pickle.dumps(twice, 2)}), CLASSES
    )
    assert test.names == [f"same-{row}.png" for row in test.rows]
    assert len(set(test.names)) == len(test) > 1


def test_the_classes_of_an_archive_are_named(tmp_path):
    assert class_names(pack(tmp_path / "small.tar.gz", members())) == ["apple", "bicycle", "motorcycle"]


def test_a_download_is_kept_and_used_the_next_time(served, tmp_path):
    address, md5, handler = served
    for _ in range(2):
        dataset = data.get_cifar100(CLASSES, folder=tmp_path / "data", url=f"{address}/whole", md5=md5)
        assert len(dataset.train) == 4 and not dataset.drawn
    assert handler.requests == 1
    assert [path.name for path in (tmp_path / "data").iterdir()] == ["cifar-100-python.tar.gz"]


@pytest.mark.parametrize("path", ["/half", "/missing"])
def test_a_download_that_breaks_off_leaves_nothing(served, tmp_path, path):
    address, md5, _ = served
    with pytest.raises(data.DownloadFailed, match=r"could not be downloaded .*set CIFAR100_ARCHIVE"):
        data.get_cifar100(folder=tmp_path / "data", url=address + path, md5=md5)
    assert list((tmp_path / "data").iterdir()) == []


def test_a_download_without_a_length_is_checked_all_the_same(served, tmp_path):
    address, md5, _ = served
    data.download(f"{address}/silent", tmp_path / "got", md5)
    assert hashlib.md5((tmp_path / "got").read_bytes()).hexdigest() == md5


def test_a_download_with_another_checksum_is_refused_and_not_replaced_by_drawn_images(served, tmp_path):
    address, md5, _ = served
    with pytest.raises(ArchiveRefused, match=rf"its MD5 is {md5}, not {data.MD5}.*set CIFAR100_ARCHIVE"):
        data.get_cifar100(folder=tmp_path / "data", url=f"{address}/whole", allow_drawn=True)
    assert list((tmp_path / "data").iterdir()) == []


def test_a_cached_file_with_another_checksum_is_refused_and_left_to_its_owner(archive, tmp_path):
    cached = tmp_path / data.ARCHIVE_NAME
    cached.write_bytes(archive.read_bytes())
    with pytest.raises(ArchiveRefused, match="Remove a cached file"):
        data.get_cifar100(folder=tmp_path)
    assert cached.exists()


def test_without_a_network_drawn_images_say_what_they_are(served, tmp_path):
    address, _, _ = served
    with pytest.warns(UserWarning, match="DRAWN STAND-IN IMAGES, NOT CIFAR-100"):
        dataset = data.get_cifar100(folder=tmp_path, url=f"{address}/missing", allow_drawn=True)
    assert dataset.drawn and dataset.note == "drawn stand-in images, not CIFAR-100"
    assert len(dataset.train) == 1000 and len(dataset.test) == 200


def test_drawn_images_are_never_given_for_classes_that_cannot_be_drawn(served, tmp_path):
    address, _, _ = served
    with pytest.raises(data.DownloadFailed):
        data.get_cifar100(("apple", "bicycle"), folder=tmp_path, url=f"{address}/missing", allow_drawn=True)


def test_drawn_images_depend_on_the_seed_alone_and_all_differ():
    first, second, other = (data.draw_dataset(12, 6, seed) for seed in (1, 1, 2))
    assert np.array_equal(first.train.pixels, second.train.pixels)
    assert not np.array_equal(first.train.pixels, other.train.pixels)
    both = np.concatenate([first.train.pixels, first.test.pixels]).reshape(36, -1)
    assert len(np.unique(both, axis=0)) == 36
    assert not set(first.train.names) & set(first.test.names)


def test_drawn_classes_can_be_told_apart_but_not_without_an_error():
    from sklearn.linear_model import LogisticRegression

    dataset = data.draw_dataset(150, 100)
    train, test = (split.pixels.reshape(len(split), -1) / 255 for split in (dataset.train, dataset.test))
    accuracy = LogisticRegression(C=0.01).fit(train, dataset.train.labels).score(test, dataset.test.labels)
    assert 0.6 < accuracy < 0.97


def test_a_test_case_is_an_input_of_the_workflow():
    event = data.test_case("a-bucket", ["test/a.png"], np.random.default_rng(0))
    assert event == {"image_data": "", "s3_bucket": "a-bucket", "s3_key": "test/a.png", "inferences": []}


def test_test_cases_take_every_image_once_before_any_comes_again():
    keys = [f"test/{number}.png" for number in range(10)]
    picked = [event["s3_key"] for event in data.test_cases("b", keys, 25, seed=3)]
    assert sorted(picked[:10]) == sorted(picked[10:20]) == sorted(keys) and len(set(picked[20:])) == 5
    assert picked[:10] != keys
    assert picked == [event["s3_key"] for event in data.test_cases("b", keys, 25, seed=3)]
