"""How large an image is, by the first bytes of its file."""
import re
import struct

# Where Pillow, too, takes an image for a decompression bomb: 0.5 GB in memory.
MAX_PIXELS = 178_956_970


def image_size(content: bytes) -> tuple[int, int] | None:
    """(width, height) that an image's file states, without decoding it.

    Args:
        content (bytes): The file, or its beginning.

    Returns:
        tuple[int, int] | None: None for what is cut off there, and for formats that are not among
        PNG, JPEG, GIF, BMP, WebP, TIFF and PNM.
    """
    try:
        for magic, read in _READERS.items():
            if content.startswith(magic):
                return read(content)
    except struct.error:  # cut off
        pass
    return None


def _png(content: bytes) -> tuple[int, int]:
    return struct.unpack_from('>II', content, 16)


def _jpeg(content: bytes) -> tuple[int, int] | None:
    place = 2
    while 0 <= (place := content.find(b'\xff', place)) < len(content) - 1:  # decoders skip what is between segments
        marker = content[place + 1]
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):  # a start of frame
            height, width = struct.unpack_from('>HH', content, place + 5)
            return width, height
        if marker == 0xDA:  # the pixels begin
            break
        bare = marker in (0, 1, 0xFF) or 0xD0 <= marker <= 0xD9
        place += 1 if bare else 2 + struct.unpack_from('>H', content, place + 2)[0]
    return None


def _gif(content: bytes) -> tuple[int, int]:
    return struct.unpack_from('<HH', content, 6)


def _bmp(content: bytes) -> tuple[int, int]:
    if struct.unpack_from('<I', content, 14)[0] == 12:  # OS/2
        return struct.unpack_from('<HH', content, 18)
    width, height = struct.unpack_from('<ii', content, 18)
    return abs(width), abs(height)  # negative: the first row is the uppermost


def _webp(content: bytes) -> tuple[int, int] | None:
    kind = content[12:16]
    if kind == b'VP8X':
        low_width, high_width, low_height, high_height = struct.unpack_from('<HBHB', content, 24)
        return (high_width << 16 | low_width) + 1, (high_height << 16 | low_height) + 1
    if kind == b'VP8L':
        bits = struct.unpack_from('<I', content, 21)[0]
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    if kind == b'VP8 ':
        width, height = struct.unpack_from('<HH', content, 26)
        return width & 0x3FFF, height & 0x3FFF
    return None


def _tiff(content: bytes) -> tuple[int, int] | None:
    """Of the first page; in a BigTIFF numbers are 8 bytes wide instead of 4, and counts 8 instead of 2."""
    order = '<' if content.startswith(b'II') else '>'
    big = struct.unpack_from(f'{order}H', content, 2)[0] == 43
    page, = struct.unpack_from(f'{order}Q' if big else f'{order}I', content, 8 if big else 4)
    count, = struct.unpack_from(f'{order}Q' if big else f'{order}H', content, page)
    found = {}
    for entry in range(min(count, 1000)):
        place = page + (8 + 20 * entry if big else 2 + 12 * entry)
        tag, kind = struct.unpack_from(f'{order}HH', content, place)
        if tag in (256, 257) and kind in (3, 4, 16):
            number = order + {3: 'H', 4: 'I', 16: 'Q'}[kind]
            found[tag], = struct.unpack_from(number, content, place + (12 if big else 8))
    return (found[256], found[257]) if len(found) == 2 else None


def _pnm(content: bytes) -> tuple[int, int] | None:
    match = re.match(rb'P[1-6](?:\s|#[^\n]*\n)+(\d{1,9})(?:\s|#[^\n]*\n)+(\d{1,9})\s', content)
    return (int(match[1]), int(match[2])) if match else None


_READERS = {
    b'\x89PNG': _png, b'\xff\xd8': _jpeg, b'GIF8': _gif, b'BM': _bmp, b'RIFF': _webp,
    b'II*\0': _tiff, b'MM\0*': _tiff, b'II+\0': _tiff, b'MM\0+': _tiff,
    **{f'P{digit}'.encode(): _pnm for digit in range(1, 7)},
}
