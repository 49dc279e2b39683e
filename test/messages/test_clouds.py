# SPDX-License-Identifier: Apache-2.0
"""PointCloud2 by field name, type and offset; every layout is packed here point by point with `struct`."""

from __future__ import annotations

import runpy
import struct
import sys
from types import SimpleNamespace

import numpy as np
import pytest

from diffkd_ros import messages
from diffkd_ros.messages.clouds import PointCloudError, layout_of, read_cloud

TYPES = {'b': 1, 'B': 2, 'h': 3, 'H': 4, 'i': 5, 'I': 6, 'f': 7, 'd': 8}
RNG = np.random.default_rng(5)
XYZ = RNG.uniform(-50, 50, (12, 3)).astype(np.float32)
INTENSITY = RNG.uniform(0, 1, 12).astype(np.float32)


def cloud(fields, values, *, big=False, step=None, height=1, row_padding=0):
    """`fields`: (name, struct code, offset); `values`: one tuple a point."""
    step = step or max(offset + struct.calcsize(code) for _, code, offset in fields)
    data = bytearray()
    width = len(values) // height
    for row in range(height):
        for point in values[row * width : (row + 1) * width]:
            packed = bytearray(b'\xaa' * step)
            for (_, code, offset), value in zip(fields, point, strict=True):
                struct.pack_into(('>' if big else '<') + code, packed, offset, value)
            data += packed
        data += b'\xbb' * row_padding
    return SimpleNamespace(
        fields=[SimpleNamespace(name=n, datatype=TYPES[c], offset=o, count=1) for n, c, o in fields],
        height=height,
        width=width,
        point_step=step,
        row_step=width * step + row_padding,
        is_bigendian=big,
        data=np.frombuffer(bytes(data), np.uint8),
    )


def rows(*columns):
    return [tuple(column[i] for column in columns) for i in range(len(XYZ))]


def xyz(code='f'):
    size = struct.calcsize(code)
    return [('x', code, 0), ('y', code, size), ('z', code, 2 * size)]


BYTES = np.arange(12) * 20
LAYOUTS = {
    'packed': cloud([*xyz(), ('intensity', 'f', 12)], rows(*XYZ.T, INTENSITY)),
    'PCL padded': cloud([*xyz(), ('intensity', 'f', 16)], rows(*XYZ.T, INTENSITY), step=32),
    'Velodyne': cloud(
        [*xyz(), ('intensity', 'f', 12), ('ring', 'H', 16), ('time', 'f', 18)],
        rows(*XYZ.T, INTENSITY * 255, range(12), -INTENSITY),
    ),
    'Autoware XYZIRC': cloud(
        [*xyz(), ('intensity', 'B', 12), ('return_type', 'B', 13), ('channel', 'H', 14)],
        rows(*XYZ.T, BYTES, range(12), range(12)),
    ),
    'Autoware XYZIRCAEDT': cloud(
        [
            *xyz(),
            ('intensity', 'B', 12),
            ('return_type', 'B', 13),
            ('channel', 'H', 14),
            ('azimuth', 'f', 16),
            ('elevation', 'f', 20),
            ('distance', 'f', 24),
            ('time_stamp', 'I', 28),
        ],
        rows(*XYZ.T, BYTES, range(12), range(12), INTENSITY, INTENSITY, INTENSITY, range(12)),
    ),
    'Ouster': cloud(
        [
            *xyz(),
            ('intensity', 'f', 16),
            ('t', 'I', 20),
            ('reflectivity', 'H', 24),
            ('ring', 'H', 26),
            ('ambient', 'H', 28),
            ('range', 'I', 32),
        ],
        rows(*XYZ.T, INTENSITY * 255, *[range(12)] * 5),
        step=48,
    ),
    'big endian': cloud([*xyz(), ('intensity', 'f', 12)], rows(*XYZ.T, INTENSITY), big=True),
    'double': cloud([*xyz('d'), ('intensity', 'd', 24)], rows(*XYZ.T, INTENSITY)),
    'other order': cloud(
        [('intensity', 'f', 0), ('z', 'f', 4), ('y', 'f', 8), ('x', 'f', 13)], rows(INTENSITY, *XYZ.T[::-1])
    ),
    'organised, padded rows': cloud(
        [*xyz(), ('intensity', 'H', 12)], rows(*XYZ.T, BYTES), height=3, row_padding=7
    ),
}


@pytest.mark.parametrize('layout', LAYOUTS)
def test_layouts(layout):
    points = read_cloud(LAYOUTS[layout])
    np.testing.assert_array_equal(points.points[:, :3], XYZ)
    integer = layout.startswith('Autoware') or layout == 'organised, padded rows'
    np.testing.assert_allclose(points.points[:, 3], BYTES / 255 if integer else INTENSITY, rtol=1e-6)
    assert points.points.dtype == np.float32
    assert points.dropped == 0


def test_ring_and_time_come_along():
    points = read_cloud(LAYOUTS['Velodyne'])
    np.testing.assert_array_equal(points.ring, np.arange(12))
    np.testing.assert_array_equal(points.time, -INTENSITY)
    assert read_cloud(LAYOUTS['packed']).ring is None


def test_the_scale_can_be_given_and_data_that_contradict_it_are_named():
    dark = cloud([*xyz(), ('intensity', 'f', 12)], rows(*XYZ.T, INTENSITY / 4))
    bright = cloud([*xyz(), ('intensity', 'f', 12)], rows(*XYZ.T, INTENSITY * 255))
    counts = cloud([*xyz(), ('intensity', 'H', 12)], rows(*XYZ.T, BYTES * 8))
    np.testing.assert_allclose(read_cloud(dark, '0..255').points[:, 3], INTENSITY / 4 / 255, rtol=1e-6)
    assert '0..255: set it to auto or 0..1' in read_cloud(dark, '0..255').doubt
    assert 'says 0..1: set it to auto or 0..255' in read_cloud(bright, '0..1').doubt
    assert f'intensities reach {BYTES.max() * 8}: values above 255' in read_cloud(counts).doubt
    for fine, scale in ((dark, 'auto'), (dark, '0..1'), (bright, 'auto'), (bright, '0..255')):
        assert read_cloud(fine, scale).doubt == ''
    for any_of_them in (dark, bright, counts):
        ignored = read_cloud(any_of_them, 'ignore')
        assert (ignored.points[:, 3] == 0.0).all()
        np.testing.assert_array_equal(ignored.points[:, :3], read_cloud(any_of_them).points[:, :3])
        assert ignored.doubt == ''


def ros_message(made):
    from sensor_msgs.msg import PointCloud2, PointField

    message = PointCloud2(
        height=made.height,
        width=made.width,
        point_step=made.point_step,
        row_step=made.row_step,
        is_bigendian=made.is_bigendian,
        fields=[PointField(name=f.name, offset=f.offset, datatype=f.datatype, count=1) for f in made.fields],
    )
    message.data.frombytes(made.data.tobytes())
    return message


@pytest.fixture
def point_cloud2():
    return pytest.importorskip('sensor_msgs_py.point_cloud2', reason='sensor_msgs_py is not installed')


@pytest.mark.parametrize('layout', [name for name in LAYOUTS if 'rows' not in name and 'big' not in name])
def test_sensor_msgs_py_reads_the_same(layout, point_cloud2):
    # It does not filter points, and gives intensities as they are.
    message = ros_message(LAYOUTS[layout])
    ours, found = read_cloud(message), point_cloud2.read_points(message)
    for i, name in enumerate('xyz'):
        np.testing.assert_array_equal(ours.points[:, i], found[name].astype(np.float32))
    expected = found['intensity'] / np.float32(ours.intensity_scale)
    np.testing.assert_allclose(ours.points[:, 3], expected, rtol=1e-6)


def test_why_sensor_msgs_py_does_not_read_the_points(point_cloud2):
    padded = ros_message(LAYOUTS['organised, padded rows'])
    np.testing.assert_array_equal(read_cloud(padded).points[:, :3], XYZ)
    assert (point_cloud2.read_points(padded)['x'] != XYZ[:, 0]).any()
    big = ros_message(LAYOUTS['big endian'])
    before = big.data.tobytes()
    np.testing.assert_array_equal(read_cloud(big).points[:, :3], XYZ)
    assert big.data.tobytes() == before
    point_cloud2.read_points(big)
    assert big.data.tobytes() != before


@pytest.mark.parametrize('library', ['sensor_msgs_py', 'our own'])
def test_the_layout_is_the_same_with_and_without_sensor_msgs_py(library, monkeypatch):
    if library == 'sensor_msgs_py':
        pytest.importorskip('sensor_msgs_py.point_cloud2', reason='sensor_msgs_py is not installed')
    else:
        monkeypatch.setitem(sys.modules, 'sensor_msgs_py', None)
        monkeypatch.setitem(sys.modules, 'sensor_msgs_py.point_cloud2', None)
    module = runpy.run_path(messages.clouds.__file__)
    described = module['dtype_from_fields'](
        [module['Field'](f'f{k}', 8 * k, datatype) for k, datatype in enumerate(TYPES.values())]
    )
    for k, code in enumerate(TYPES):
        dtype, offset = described.fields[f'f{k}'][:2]
        assert (dtype, offset) == (np.dtype(code), 8 * k)


def test_of_many_fields_the_first_are_named():
    many = [SimpleNamespace(name='x' * 1000, datatype=7, offset=0, count=1)] * 100_000
    assert len(layout_of(SimpleNamespace(fields=many))) < 2000
    assert layout_of(SimpleNamespace(fields=many)).endswith(', 99968 more')


def test_a_scalar_field_whose_count_is_zero_is_read():
    made = cloud([*xyz(), ('intensity', 'f', 12)], rows(*XYZ.T, INTENSITY))
    for field in made.fields:
        field.count = 0
    np.testing.assert_array_equal(read_cloud(made).points[:, :3], XYZ)


def test_invalid_points_are_dropped_from_every_column():
    x = XYZ.copy()
    x[2, 1], x[5, 0], x[7] = np.nan, np.inf, 0.0
    made = cloud([*xyz(), ('intensity', 'f', 12), ('ring', 'H', 16)], rows(*x.T, INTENSITY, range(12)))
    points = read_cloud(made)
    kept = [0, 1, 3, 4, 6, 8, 9, 10, 11]
    np.testing.assert_array_equal(points.points[:, :3], XYZ[kept])
    np.testing.assert_array_equal(points.ring, kept)
    assert points.dropped == 3


@pytest.mark.parametrize(
    ('name', 'code', 'wrong'),
    [
        ('ring', 'f', np.nan),
        ('ring', 'i', -1),
        ('ring', 'I', 65536),
        ('time', 'f', np.inf),
        ('time', 'd', 1e300),
    ],
)
def test_a_ring_or_time_with_garbage_is_left_out(name, code, wrong):
    values = [wrong, *range(1, 12)]
    made = cloud([*xyz(), ('intensity', 'f', 12), (name, code, 16)], rows(*XYZ.T, INTENSITY, values))
    points = read_cloud(made)
    np.testing.assert_array_equal(points.points[:, :3], XYZ)
    assert getattr(points, name) is None
    # Not if the point is not used.
    x = XYZ.copy()
    x[0] = np.nan
    made = cloud([*xyz(), ('intensity', 'f', 12), (name, code, 16)], rows(*x.T, INTENSITY, values))
    np.testing.assert_array_equal(getattr(read_cloud(made), name), values[1:])


FIELDS = ('x', 'y', 'z', 'intensity')


def change(**attributes):
    made = cloud([*xyz(), ('intensity', 'f', 12)], rows(*XYZ.T, INTENSITY))
    for name, value in attributes.items():
        setattr(made, name, value)
    return made


@pytest.mark.parametrize(
    ('made', 'message'),
    [
        (
            cloud(xyz(), rows(*XYZ.T)),
            r'no field intensity: found x float32@0, .*; accepted: x, y, z as float32',
        ),
        (cloud([*xyz()[:2], ('intensity', 'f', 8)], rows(*XYZ.T)), 'no field z'),
        (
            cloud([*xyz('i'), ('intensity', 'f', 12)], rows(*XYZ.T.astype(int), INTENSITY)),
            'x is not a floating',
        ),
        (change(width=0, data=np.zeros(0, np.uint8)), 'empty'),
        (change(width=13), '192 bytes of data, but height 1 x width 13 x point_step 16 needs 208'),
        (change(height=2, width=6, row_step=5), 'row_step 5 is smaller'),
        (change(point_step=14, width=13), 'outside point_step 14'),
        (change(point_step=2**31), f'192 bytes of data, .* needs {12 * 2**31}'),
        (
            change(fields=[SimpleNamespace(name=n, datatype=7, offset=2**31, count=1) for n in FIELDS]),
            'field x at offset 2147483648 is outside point_step 16',
        ),
        (
            cloud([*xyz(), ('intensity', 'f', 12)], rows(*(XYZ * np.nan).T, INTENSITY)),
            'none of the 12 points',
        ),
    ],
)
def test_refusals_name_what_is_wrong(made, message):
    with pytest.raises(PointCloudError, match=message):
        read_cloud(made)
