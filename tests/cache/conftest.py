"""A root with layers that the tests know by heart."""

from pathlib import Path

import pytest

from clipfs.layer.layout import Layout
from clipfs.layer.sealed_index import seal_index
from tests.support.samples import Sample, make_sample
from tests.support.tier_stack import KEYS, made_layout


@pytest.fixture(scope="session")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Sample:
    """A layer of eight chunks and a bit."""
    return make_sample(tmp_path_factory.mktemp("sample") / "tar", content_bytes=(1 << 20) + 5)


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    return made_layout(tmp_path / "root")


@pytest.fixture
def cached(layout: Layout, sample: Sample) -> Layout:
    """The sample, complete, and its index."""
    layout.payload(sample.key).write_bytes(sample.payload)
    sealed = seal_index(sample.indexed.index, sample.layer, KEYS)
    layout.layer_index(sample.key).write_bytes(sealed)
    return layout
