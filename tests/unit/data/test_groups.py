"""Images that must stay together have one key, whatever connects them."""

from __future__ import annotations

import numpy as np

from tljobs.data.groups import keys_together

CONTENTS = ["c0", "c1", "c2", "c3", "c4", "c5"]
NO_GROUPS = [""] * 6


def test_without_groups_each_image_has_its_content_as_key() -> None:
    assert keys_together(CONTENTS, NO_GROUPS) == CONTENTS


def test_a_group_has_one_key_made_of_its_name() -> None:
    keys = keys_together(CONTENTS, ["", "p1", "", "p2", "p1", ""])
    assert keys == ["c0", "group:p1", "c2", "group:p2", "group:p1", "c5"]


def test_near_duplicates_have_one_key_that_does_not_depend_on_their_order() -> None:
    near = np.array([0, 1, 2, 1, 4, 5])
    assert keys_together(CONTENTS, NO_GROUPS, near) == ["c0", "c1", "c2", "c1", "c4", "c5"]
    assert keys_together(CONTENTS[::-1], NO_GROUPS, near[::-1]) == ["c5", "c4", "c1", "c2", "c1", "c0"]


def test_groups_and_nearness_connect_through_each_other() -> None:
    groups = ["p1", "p1", "p2", "p2", "", ""]
    near = np.array([0, 1, 1, 3, 3, 5])  # image 1 is near 2, and 3 near 4
    assert keys_together(CONTENTS, groups, near) == ["group:p1"] * 5 + ["c5"]
