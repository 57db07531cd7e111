"""The samples for devices without Python: C++ and a browser, against the one for Python, on a model of every kind.

They need what this project does not install. `make test-interop` fetches onnxruntime-web; ONNX Runtime's C++ headers
come with its releases and with Debian's libonnxruntime-dev:

    ONNXRUNTIME_DIR   folder with include/onnxruntime_cxx_api.h, and lib/ with the library (else that of pip's package)
    ONNXRUNTIME_WEB   the folder dist of the npm package onnxruntime-web
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from helpers.browser import Browser, chromium
from helpers.serving import served

from onnxmtl import runtime
from onnxmtl.frontends.onnx import load
from onnxmtl.ir import save
from onnxmtl.kinds import load_tasks
from onnxmtl.passes.finalize import finalize_passes
from onnxmtl.passes.heads import AttachHeads
from onnxmtl.passes.instruments import relative_error
from onnxmtl.passes.pipelines import Pipeline, import_pipeline

SAMPLES = Path(__file__).parents[2] / "samples"
PICTURE = (40, 90)  # height and width of the photograph
SPEC = {
    "layout": "NCHW", "colour": "RGB", "height": 64, "width": 64,
    "range": [-1, 1], "mean": [0.1, 0.2, 0.3], "scale": [1, 2, 4.5],
}  # fmt: skip


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    tasks = load_tasks(str(SAMPLES / "tasks" / "all-kinds.toml"))
    backbone = import_pipeline()(load(SAMPLES / "backbones" / "vgg-small.onnx")).model
    made = Pipeline([AttachHeads(tasks, 0), *finalize_passes(tasks, SPEC)])(backbone).model
    return save(made, tmp_path_factory.mktemp("model") / "model.onnx")


@pytest.fixture(scope="module")
def photo(tmp_path_factory):
    pixels = np.random.default_rng(0).integers(0, 256, (*PICTURE, 3), dtype=np.uint8)
    file = tmp_path_factory.mktemp("photo") / "photo.ppm"
    file.write_bytes(b"P6 # noise\n90 40\n255\n" + pixels.tobytes())
    return file


@pytest.fixture(scope="module")
def expected(model, photo, tmp_path_factory):
    """What the sample for Python computes: of the picture that it draws, and of the photograph."""
    found = {}
    for name, options in (("drawn", []), ("photo", ["--image", photo])):
        out = tmp_path_factory.mktemp(name)
        command = [sys.executable, SAMPLES / "edge_inference.py", model, "--out", out, *options]
        subprocess.run(command, check=True, capture_output=True)
        with np.load(out / "outputs.npz") as arrays:
            found[name] = dict(arrays)
    return found


# C++


def headers() -> Path | None:
    places = [Path(os.environ.get("ONNXRUNTIME_DIR", "/usr")) / "include"]
    places += [places[0] / "onnxruntime", places[0] / "onnxruntime/core/session"]
    return next((place for place in places if (place / "onnxruntime_cxx_api.h").is_file()), None)


def library(folder: Path) -> Path:
    """A folder with libonnxruntime.so: ONNXRUNTIME_DIR's, or one that points to the library in pip's package."""
    given = Path(os.environ.get("ONNXRUNTIME_DIR", "")) / "lib"
    if (given / "libonnxruntime.so").exists():
        return given
    inside = Path(runtime.onnxruntime().__file__).parent / "capi"
    (file,) = (file for file in inside.glob("libonnxruntime.so.*") if re.fullmatch(r"[\d.]+", file.name[18:]))
    folder.mkdir()
    for name in ("libonnxruntime.so", "libonnxruntime.so.1"):
        (folder / name).symlink_to(file)
    return folder


@pytest.fixture(scope="module")
def program(tmp_path_factory):
    compiler = next(filter(None, map(shutil.which, ("c++", "g++", "clang++"))), None)
    if compiler is None or headers() is None or sys.platform != "linux":
        pytest.skip("needs Linux, a C++ compiler and onnxruntime_cxx_api.h (ONNXRUNTIME_DIR, or libonnxruntime-dev)")
    folder = tmp_path_factory.mktemp("native")
    libraries = library(folder / "lib")
    warnings = ["-Wall", "-Wextra", "-Wpedantic", "-Werror"]
    command = [compiler, "-std=c++17", "-O1", *warnings, SAMPLES / "edge_inference.cpp", "-isystem", headers()]
    command += ["-L", libraries, "-lonnxruntime", f"-Wl,-rpath,{libraries}", "-o", folder / "edge_inference"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return folder / "edge_inference"


def native(program, *arguments) -> subprocess.CompletedProcess[str]:
    return subprocess.run([program, *arguments], capture_output=True, text=True, check=False)


@pytest.mark.parametrize("image", ["drawn", "photo"])
def test_in_cpp(program, model, photo, expected, image, tmp_path):
    """The same numbers as from Python, up to what another version of the library rounds otherwise."""
    options = ["--image", photo] if image == "photo" else []
    done = native(program, model, "--threads", "1", "--out", tmp_path / "out", *options)
    assert (done.returncode, done.stderr) == (0, "")
    assert [line.partition(":")[0] for line in done.stdout.splitlines()] == list(expected[image])
    for name, array in expected[image].items():
        found = np.frombuffer((tmp_path / "out" / f"{name}.bin").read_bytes(), array.dtype).reshape(array.shape)
        assert relative_error(found, array) <= 1e-5, name
        shape = ", ".join(map(str, array.shape))
        assert f"{name}: [{shape}] {array.dtype}, " in done.stdout


def test_mistakes_in_cpp(program, model, tmp_path):
    (tmp_path / "not.ppm").write_text("P5 1 1 255 x")
    for arguments, code, said in (
        ([], 2, "no model; usage"),
        ([model, "--colour"], 2, "--colour; usage"),
        ([tmp_path / "none.onnx"], 1, "none.onnx"),
        ([model, "--image", tmp_path / "not.ppm"], 1, "a binary PPM with 8 bits per channel is needed"),
        ([SAMPLES / "backbones" / "vgg-small.onnx"], 1, "has no onnxmtl.contract"),
    ):
        done = native(program, *arguments)
        assert done.returncode == code and said in done.stderr and done.stderr.count("\n") == 1


# A browser


@pytest.fixture(scope="module")
def page(request, tmp_path_factory):
    """A browser, and the address of the sample's folder as a user serves it."""
    dist = Path(os.environ.get("ONNXRUNTIME_WEB", "/nowhere"))
    if not (dist / "ort.wasm.min.js").is_file() or chromium() is None:
        pytest.skip("needs chromium, and onnxruntime-web's folder dist as ONNXRUNTIME_WEB")
    folder = tmp_path_factory.mktemp("site")
    shutil.copy(SAMPLES / "web" / "index.html", folder)
    shutil.copy(request.getfixturevalue("model"), folder)
    shutil.copy(SAMPLES / "backbones" / "vgg-small.onnx", folder)
    with Browser() as browser, served({"": folder, "ort": dist}) as address:
        yield browser, address


STATUS = "document.getElementById('status')"


def opened(page, query="", width=900) -> str:
    """The line that the page ends with."""
    browser, address = page
    browser.open(f"{address}/index.html{query}", width)
    until = time.monotonic() + 60
    while browser.evaluate(f"{STATUS}.textContent") == "loading …":
        assert time.monotonic() < until
        time.sleep(0.05)
    return browser.evaluate(f"{STATUS}.textContent")


def numbers(browser) -> dict[str, np.ndarray]:
    text = (
        "JSON.stringify(Object.entries(outputs).map(([name, {dims, data}]) => [name, dims, Array.from(data, Number)]))"
    )
    return {name: np.array(data).reshape(dims) for name, dims, data in json.loads(browser.evaluate(text))}


@pytest.mark.parametrize("width", [360, 900])
def test_in_a_browser(page, expected, width):
    """The same numbers as from Python, of the picture that all three samples draw; a figure for each task."""
    browser, address = page
    assert re.fullmatch(r"\d+ tasks in [\d.]+ ms \(WebAssembly, 1 thread\)", opened(page, width=width))
    found = numbers(browser)
    assert list(found) == list(expected["drawn"])
    for name, array in expected["drawn"].items():
        assert relative_error(found[name], array) <= 1e-4, name
    titles = browser.evaluate("[...document.querySelectorAll('figcaption b')].map(title => title.textContent)")
    assert titles == ["image", *expected["drawn"]]
    assert browser.complaints() == [] and all(url.startswith(address) for url in browser.requests())
    assert browser.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth") <= 0
    drawn = """[...document.querySelectorAll('canvas')].map(canvas => {
        const {data} = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height);
        return new Set(new Uint32Array(data.buffer)).size})"""
    assert all(colours > 1 for colours in browser.evaluate(drawn))


def test_a_file_of_the_users_in_a_browser(page, photo, expected):
    browser, _ = page
    opened(page)
    height, width = PICTURE
    pixels = np.frombuffer(photo.read_bytes()[-3 * height * width :], np.uint8).tolist()
    given = f"picture = {{height: {height}, width: {width}, rgb: new Uint8Array({pixels})}}"
    browser.evaluate(f"{given}; run().then(() => null)")
    for name, array in expected["photo"].items():
        assert relative_error(numbers(browser)[name], array) <= 1e-4, name


def test_mistakes_in_a_browser(page):
    for query, said in (
        ("?model=vgg-small.onnx", "error: the model has no onnxmtl.contract"),
        ("?model=index.html", "error: this is no ONNX file"),
        ("?model=none.onnx", "no none.onnx here; choose a model"),
        ("?ort=elsewhere/", "error: no onnxruntime-web at"),
    ):
        assert opened(page, query).startswith(said)
