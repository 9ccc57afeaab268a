"""Whether the stored form of a dataset may be decoded: its filters, chunks and what they hold.

HDF5 decodes a chunk as a whole, however little of it is asked for or counts, and inflates
a compressed one for as long as it goes on: a chunk of 80 bytes can hold gigabytes. So what
a chunk comes to is found here, within a limit, before HDF5 is asked.
"""

import math
import zlib

import h5py


_GZIP = 1
_FILTERS = {2: "shuffle", _GZIP: "gzip", 3: "checksum"}
"""The filters that simkit writes by their numbers in HDF5, in the order of writing."""
_MOST_INFLATED = 1032
"""How many bytes one byte of a deflate stream can stand for (zlib's own account)."""
_HARMLESS = 4 * 1024**2
"""Bytes that may be inflated without a look at them."""
_OF_A_CHUNK = 1024
"""Bytes that are reckoned for each chunk beside its values; a million take a quarter minute."""


def memory_of(dataset: h5py.Dataset) -> int:
    """Bytes that reading a dataset takes; it must have a shape."""
    # Not dataset.nbytes, which wraps around beyond 64 bits.
    size = math.prod(map(int, dataset.shape)) * dataset.dtype.itemsize
    if dataset.chunks is None:
        return size
    counts = (
        -(-size // chunk) for size, chunk in zip(dataset.shape, dataset.chunks, strict=True)
    )
    return max(size, _chunk_size(dataset)) + math.prod(map(int, counts)) * _OF_A_CHUNK


def find_danger(dataset: h5py.Dataset) -> str | None:
    """What forbids to decode the dataset, as the end of a sentence; `None` if nothing does.

    What `memory_of` tells is taken to be allowed already.
    """
    if dataset.chunks is None:
        return None
    unknown = _unknown_filter(dataset)
    if unknown:
        return f"is encoded by {unknown}, which simkit never does"
    deflated = _GZIP in _filter_codes(dataset)
    stored = dataset.id.get_storage_size()
    if deflated and stored * _MOST_INFLATED > _HARMLESS and _holds_too_much(dataset):
        return "has a chunk that holds more than its size"
    return None


def _chunk_size(dataset: h5py.Dataset) -> int:
    return math.prod(map(int, dataset.chunks or ())) * dataset.dtype.itemsize


def _filter_codes(dataset: h5py.Dataset) -> list[int]:
    properties = dataset.id.get_create_plist()
    return [properties.get_filter(index)[0] for index in range(properties.get_nfilters())]


def _unknown_filter(dataset: h5py.Dataset) -> str | None:
    # Each filter once and in order: two of gzip would multiply what one byte can stand for.
    order = list(_FILTERS)
    codes = _filter_codes(dataset)
    for code in codes:
        if code not in _FILTERS:
            return f"the filter {code} of HDF5"
    if codes != sorted(set(codes), key=order.index):
        return " after ".join(_FILTERS[code] for code in reversed(codes))
    return None


def _holds_too_much(dataset: h5py.Dataset) -> bool:
    limit, place_of_gzip = _chunk_size(dataset), _filter_codes(dataset).index(_GZIP)
    places: list[tuple[int, ...]] = []
    dataset.id.chunk_iter(lambda found: places.append(found.chunk_offset))
    for place in places:
        mask, content = dataset.id.read_direct_chunk(place)
        try:
            # A bit of the mask says of each filter whether the chunk went without it.
            deflated = not mask >> place_of_gzip & 1
            size = len(zlib.decompressobj().decompress(content, limit + 1)) if deflated else 0
        except zlib.error:
            continue  # damaged, as HDF5 will say
        if size > limit:
            return True
    return False
