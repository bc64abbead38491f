"""What the isolated process makes of a foreign image file: see tljobs.data.isolate.

Bytes flow in; small values and the finished bytes flow out, so that full-size pixels never leave the process. The
functions raise BadImage.
"""

from __future__ import annotations

from typing import Any, Literal

from tljobs.data.decode import decode
from tljobs.data.pixels import encode_jpeg, encode_png, encode_thumbnail, eval_view
from tljobs.data.probe import probe

Form = Literal["draft", "jpeg", "png"]


def stored_form(
    data: bytes, *, form: Form, short_side: int, max_pixels: int, background: str
) -> tuple[dict[str, Any], bytes]:
    """An image as a dataset stores it: the fields of its index row with the size of the image file, and a JPEG or PNG
    file followed by its thumbnail; a `draft` is a JPEG file with the image's probe as a further field."""
    decoded = decode(data, short_side=short_side, max_pixels=max_pixels, background=background)
    fields: dict[str, Any] = {
        "width_px": decoded.width_px,
        "height_px": decoded.height_px,
        "source_format": decoded.source_format,
        "converted": decoded.conversions,
    }
    if form == "draft":
        fields["probe"] = probe(decoded).model_dump()
    image = encode_png(decoded.pixels) if form == "png" else encode_jpeg(decoded.pixels)
    fields["image_bytes"] = len(image)
    return fields, image + encode_thumbnail(decoded.pixels)


def network_view(
    data: bytes, *, short_side: int, crop_size: int, image_size: int, background: str
) -> tuple[dict[str, Any], bytes]:
    """What a network sees of an image: no fields, and the raw uint8 pixels (image_size, image_size, 3)."""
    decoded = decode(data, short_side=short_side, background=background)
    return {}, eval_view(decoded.pixels, crop_size=crop_size, image_size=image_size).tobytes()
