"""What the TUN driver makes the kernel give at once, beside what the UDP tether sends at once.

Two plugins that know nothing of each other: if the numbers did not meet, every full record would
become two frames, the second almost empty.
"""

import pytest

from conflux.api import MAX_GSO_BYTES
from conflux.wire.frame import HEADER_BYTES as FRAME_HEADER_BYTES
from conflux.wire.frame import SIZE
from conflux.wire.frame import TAG_BYTES as FRAME_TAG_BYTES
from conflux.wire.segment import HEADER as VIRTIO
from conflux_tether_udp.datagram import HEADER_BYTES, batch
from conflux_tether_udp.keys import TAG_BYTES

UDP_BYTES = (28, 48)
"""Headers of UDP over IPv4 and IPv6."""


@pytest.mark.parametrize("headers", UDP_BYTES)
@pytest.mark.parametrize("link_bytes", [1_280, 1_420, 1_480, 1_492, 1_500, 2_304, 4_352, 9_000])
def test_full_record_leaves_in_one_batch_over_usual_links(link_bytes, headers):
    each = link_bytes - headers
    message = batch(each) * (each - HEADER_BYTES) - TAG_BYTES
    superframe = 1 + SIZE.size + VIRTIO.size + MAX_GSO_BYTES
    assert FRAME_HEADER_BYTES + superframe + FRAME_TAG_BYTES <= message
