import subprocess
import sys

import pytest

from tljobs.backbones.registry import Backbone, backbone, backbone_names
from tljobs.errors import UsageError


def test_every_listed_name_is_found() -> None:
    assert [backbone(name).name for name in backbone_names()] == list(backbone_names())
    assert {"efficientnet-lite0", "small-cnn", "mobilenet-v2", "resnet50"} <= set(backbone_names())


def test_unknown_name_gives_the_nearest_and_the_whole_list() -> None:
    with pytest.raises(UsageError) as caught:
        backbone("mobilnet-v2")
    assert "Did you mean mobilenet-v2?" in str(caught.value)
    assert all(name in caught.value.hint for name in backbone_names())


@pytest.mark.parametrize("entry", [backbone(name) for name in backbone_names()], ids=lambda entry: entry.name)
def test_declared_range_is_what_the_preprocessing_gives(entry: Backbone) -> None:
    scale, offset = entry.preprocessing.scale, entry.preprocessing.offset
    low, high = min(offset), max(255 * s + o for s, o in zip(scale, offset, strict=True))
    assert entry.input_range == pytest.approx((low, high), abs=1e-3)


def test_only_the_network_for_training_from_scratch_has_no_pretrained_weights() -> None:
    assert [name for name in backbone_names() if not backbone(name).pretrained] == ["small-cnn"]


def test_registry_imports_no_deep_learning_library() -> None:
    code = "import sys, tljobs.backbones.registry; print({'keras', 'tensorflow', 'ray', 'numpy'} & set(sys.modules))"
    assert subprocess.check_output([sys.executable, "-c", code], text=True, timeout=60).strip() == "set()"
