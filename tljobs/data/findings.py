"""The rules of an audit: what is worth telling about the files of a source, one function per topic.

Facts, which are the columns of the table of files as arrays, flow in; findings flow out. The limits stand here as
constants, and docs/tasks/audit.md explains them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

import numpy as np

from tljobs.data.facts import MAX_EXAMPLES, Facts, Flags, mixed_keys
from tljobs.data.near import group_sizes
from tljobs.records import Finding, Severity

# CIFAR-100 is used everywhere though 10 % of its test images have a near duplicate in train: Barz, Denzler, "Do we
# train on test data? Purging CIFAR of near-duplicates" (2020). What is worse than that is stopped.
MAX_LEAKAGE = 0.10
MIN_LEAKED = 5  # images of a split: fewer stop nobody, however small the split
FEW_IMAGES = 10  # training images of a class
IMBALANCE = 10  # images of the largest class for one of the smallest
BORDER_SHARE = 0.05  # of the area: less is a frame of one or two pixels
MARK_DIFFERENCE = 0.5  # between the shares of a class and of all others that have a mark
MARK_IMAGES = 5  # of a class, and of all others: below, a share says nothing
EXTENSIONS = {
    **dict.fromkeys(("jpg", "jpeg", "jpe", "jfif"), "jpeg"),
    **dict.fromkeys(("tif", "tiff"), "tiff"),
    **dict.fromkeys(("bmp", "dib"), "bmp"),
    **{name: name for name in ("png", "gif", "webp", "avif")},
}
GREY_MODES = ("1", "L", "LA", "I", "I;16", "I;16B", "I;16L", "I;16N")


def all_findings(facts: Facts) -> Iterator[Finding]:
    """Every finding, topic by topic."""
    for topic in (rejected, copies, near_duplicates, leakage, balance, names, pictures, marks):
        yield from topic(facts)


# ---------------------------------------------------------------------------------------------------- bad files


def rejected(facts: Facts) -> Iterator[Finding]:
    """Rejected files by reason, and whether they are too many."""
    reasons = facts.column("reason")
    counts = Counter(reasons.tolist())
    del counts[""]
    excused = "label-conflicts" in facts.spec.allow
    counted = sum(count for reason, count in counts.items() if not (reason == "label_conflict" and excused))
    if counted > facts.spec.max_rejected * len(reasons):
        share = f"{{count}} of {len(reasons)} files are rejected, more than {facts.spec.max_rejected:.1%}"
        bad = reasons != ""
        yield facts.finding("too-many-rejected", "blocks", share, bad, count=counted, option="--max-rejected")
    for reason, _ in counts.most_common():
        if reason == "label_conflict":
            text = "{count} files are exact copies of a file of another class; all are left out"
            option = "--allow label-conflicts"
            yield facts.finding("label-conflicts", "warns", text, reasons == reason, option=option)
        else:
            code = f"rejected-{reason.replace('_', '-')}"
            yield facts.finding(code, "warns", f"{{count}} files are rejected: {reason}", reasons == reason)


# ---------------------------------------------------------------------------------------------- twice the same


def copies(facts: Facts) -> Iterator[Finding]:
    """Exact copies: of one class, and in several of the given splits."""
    content, kept = facts.content, facts.kept
    original = np.isin(content, content[kept]) & (content >= 0)
    if (original & ~kept).any():
        text = "{count} files are exact copies of another file of the same class; one of them is kept"
        yield facts.finding("duplicates", "info", text, original & ~kept)
    given = facts.column("given_split")
    spread = mixed_keys(content, given, original & (given != ""))
    if spread.any():
        text = "{count} files lie in several of the given splits as exact copies; that of test, else val, is kept"
        yield facts.finding("duplicates-across-splits", "warns", text, spread)


def near_duplicates(facts: Facts) -> Iterator[Finding]:
    """Groups of near duplicates among the images of the dataset, and where their labels differ."""
    if facts.spec.near_duplicates == "off":
        return
    near = facts.column("near", -1)
    grouped = facts.kept & (near >= 0) & (group_sizes(near) > 1)
    if grouped.any():
        groups = len(np.unique(near[grouped]))
        text = f"{{count}} groups of near duplicates ({grouped.sum()} images)"
        option = "--near-duplicates"
        yield facts.finding("near-duplicates", "info", text, grouped, count=groups, option=option)
    mixed = mixed_keys(near, facts.label_texts(), grouped)
    if mixed.any():
        text = "{count} images have a near duplicate of another class: wrong labels?"
        yield facts.finding("near-label-conflicts", "warns", text, mixed)
    unclear = facts.column("unclear", False)
    if unclear.any():
        text = "{count} images look so much alike that near duplicates cannot be told: groups by smaller differences"
        yield facts.finding("near-duplicates-unclear", "warns", text, unclear)


def leakage(facts: Facts) -> Iterator[Finding]:
    """Validation and test images that have a near duplicate, or another image of their group, in train."""
    chosen = facts.spec.near_duplicates == "together"
    looked_for = facts.kept & (facts.spec.near_duplicates != "off")
    near = np.where(looked_for, facts.column("near", -1), -1)
    groups = facts.column("group")
    topics = (
        ("near-duplicates-across-splits", near, near >= 0, chosen, "a near duplicate"),
        ("groups-across-splits", groups, facts.kept & (groups != ""), True, "another image of their group"),
    )
    split = facts.column("split")
    for code, keys, eligible, may_block, what in topics:
        trained = np.isin(keys, np.unique(keys[eligible & (split == "train")].astype(keys.dtype)))
        leaked = eligible & trained & (split != "train")
        if not leaked.any():
            continue
        shares = {name: leaked[split == name].mean() for name in ("val", "test") if (split == name).any()}
        many = [share for name, share in shares.items() if leaked[split == name].sum() >= MIN_LEAKED]
        too_many = may_block and max(many, default=0) > MAX_LEAKAGE and "leakage" not in facts.spec.allow
        told = ", ".join(f"{share:.1%} of {name}" for name, share in shares.items())
        text = f"{{count}} validation and test images have {what} in train ({told}): scores will be too high"
        severity: Severity = "blocks" if too_many else "warns"
        yield facts.finding(code, severity, text, leaked, option="--allow leakage")


# ------------------------------------------------------------------------------------------------------ classes


def balance(facts: Facts) -> Iterator[Finding]:
    """Classes without images in train or val, with few, and with many more than others."""
    split = facts.column("split")
    counts = {name: facts.per_class(facts.kept & (split == name)) for name in ("train", "val")}
    for name, count in counts.items():
        if (count == 0).any():
            text = f"{{count}} classes have no {name} images: {_listed(facts.classes, count == 0)}"
            yield _about_classes(f"no-{name}-images", "blocks", text, count == 0, "--split")
    train = counts["train"]
    few = (train > 0) & (train < FEW_IMAGES)
    if few.any():
        text = f"{{count}} classes have less than {FEW_IMAGES} training images: {_listed(facts.classes, few)}"
        yield _about_classes("few-images", "warns", text, few)
    if train.min() and train.max() >= IMBALANCE * train.min():
        large, small = facts.classes[int(train.argmax())], facts.classes[int(train.argmin())]
        text = f"{{count}} times more training images of {large!r} ({train.max()}) than of {small!r} ({train.min()})"
        flags = np.arange(len(train)) == train.argmin()
        yield _about_classes("imbalance", "warns", text, flags, count=int(train.max() // train.min()))


def names(facts: Facts) -> Iterator[Finding]:
    """Class names that differ in upper and lower case or in spaces only."""
    spelling = np.array(["".join(name.casefold().split()) for name in facts.classes], object)
    same = np.array([(spelling == each).sum() > 1 for each in spelling])
    if same.any():
        text = f"{{count}} class names differ only in case or spaces and are kept apart: {_listed(facts.classes, same)}"
        yield _about_classes("similar-class-names", "warns", text, same, "--classes")


# ----------------------------------------------------------------------------------------------------- pictures


def pictures(facts: Facts) -> Iterator[Finding]:
    """What single images are like: blank, small, framed, turned, of unusual colours, wrongly named."""
    size = facts.spec.image_size
    topics: tuple[tuple[str, Severity, str, Flags], ...] = (
        ("blank", "warns", "{count} images are blank: one colour throughout", facts.column("blank", False)),
        ("upscaled", "warns", f"{{count}} images are smaller than {size} pixels and are enlarged", _small(facts)),
        ("borders", "info", f"{{count}} images have plain borders of {BORDER_SHARE:.0%} or more", _framed(facts)),
        ("grey", "info", "{count} images are grey", _grey(facts)),
        ("cmyk", "info", "{count} images are CMYK and become RGB", facts.column("mode") == "CMYK"),
        ("rotated", "info", "{count} images are turned as their EXIF data say", facts.column("rotated", False)),
        ("animated", "info", "{count} files have several frames; the first is taken", facts.column("animated", False)),
        ("wrong-extension", "info", "{count} files are of another format than their names say", _misnamed(facts)),
    )
    for code, severity, text, flags in topics:
        if (flags & facts.kept).any():
            yield facts.finding(code, severity, text, flags & facts.kept)


def marks(facts: Facts) -> Iterator[Finding]:
    """Properties of the files that give a class away, so that a network need not look at the object."""
    formats = facts.column("source_format")
    usual = Counter(formats[facts.kept].tolist()).most_common(1)
    topics = (
        ("grey", _grey(facts), "are grey"),
        ("borders", _framed(facts), "have plain borders"),
        ("small", _small(facts), "are enlarged"),
        ("rotated", facts.column("rotated", False), "are turned by EXIF"),
        ("format", formats != (usual[0][0] if usual else ""), f"are not {usual[0][0] if usual else ''}"),
    )
    total = facts.per_class(facts.kept)
    for name, flags, what in topics:
        having = facts.per_class(flags & facts.kept)
        others = total.sum() - total
        with np.errstate(divide="ignore", invalid="ignore"):
            inside, outside = having / total, (having.sum() - having) / others
        difference = np.where((total >= MARK_IMAGES) & (others >= MARK_IMAGES), np.abs(inside - outside), 0.0)
        if difference.max() >= MARK_DIFFERENCE:
            place = int(difference.argmax())
            text = (
                f"{inside[place]:.0%} of the images of {facts.classes[place]!r} {what}, {outside[place]:.0%} of others"
            )
            yield facts.finding(f"{name}-marks-class", "warns", text, facts.of_class(place) & facts.kept)


# ------------------------------------------------------------------------------------------------------- helpers


def _grey(facts: Facts) -> Flags:
    return np.isin(facts.column("mode"), np.array(GREY_MODES, object))


def _framed(facts: Facts) -> Flags:
    share: Flags = (facts.column("border_share", 0.0) >= BORDER_SHARE) & ~facts.column("blank", False)
    return share


def _small(facts: Facts) -> Flags:
    shorter = np.minimum(facts.column("width_px", 0), facts.column("height_px", 0))
    small: Flags = shorter < facts.spec.image_size
    return small


def _misnamed(facts: Facts) -> Flags:
    endings = [uri.rpartition("/")[2].rpartition(".")[2].lower() for uri in facts.column("uri").tolist()]
    named = np.array([EXTENSIONS.get(ending, "") for ending in endings], object)
    misnamed: Flags = (named != "") & (named != facts.column("source_format"))
    return misnamed


def _listed(classes: Sequence[str], flags: Flags) -> str:
    chosen = [name for name, flag in zip(classes, flags, strict=True) if flag]
    return ", ".join(map(repr, chosen[:MAX_EXAMPLES])) + (", …" if len(chosen) > MAX_EXAMPLES else "")


def _about_classes(
    code: str, severity: Severity, text: str, flags: Flags, option: str = "", *, count: int | None = None
) -> Finding:
    count = int(flags.sum()) if count is None else count
    return Finding(code=code, severity=severity, count=count, text=text.replace("{count}", str(count)), option=option)
