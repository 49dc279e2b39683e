# SPDX-License-Identifier: Apache-2.0
"""The report's template: values are escaped, and sections without figures are left out."""

from html.parser import HTMLParser

import pytest

pytest.importorskip('jinja2', reason='the report needs the report extra')

from diffkd_ros.evaluation.report.page import render
from diffkd_ros.evaluation.summary import Summary
from diffkd_ros.metrics.bootstrap import Interval

HOSTILE = '<script>alert("&")</script>'


class Content(HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.tags, self.text, self.attributes = [], '', []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.attributes += [value for _, value in attributes]

    def handle_data(self, data):
        self.text += data


@pytest.fixture
def page():
    summary = Summary.model_validate(
        {
            'clean': {'ap50': 0.5, 'ap70': None},
            'run': {'model': HOSTILE, 'source': f'bag:{HOSTILE}', 'model_description': HOSTILE, 'seeds': [0]},
            'mce': 90.0,
            'mce_baseline': HOSTILE,
        }
    )
    table = {
        'header': [HOSTILE],
        'rows': [(True, [HOSTILE, Interval(12.34, 10.0, 15.0), Interval(1.0, float('nan'), float('nan'))])],
        'caption': HOSTILE,
    }
    return Content(
        render(
            summary,
            warnings=[HOSTILE],
            corruptions=None,
            calibration={'figure': 'data:image/svg+xml;base64,', 'scaled': None},
            visibility={'figure': 'data:image/svg+xml;base64,', 'table': table},
            inference=table,
            pictures={'scenario': HOSTILE, 'position': 3, 'score': 0.3, 'images': [('data:,', HOSTILE)]},
        )
    )


def test_no_value_becomes_markup(page):
    assert 'script' not in page.tags
    # Title 1, first line 2, description 1, warning 1, mCE card 1, two tables 3 each, scenario 1, picture 1.
    assert page.text.count(HOSTILE) == 14
    assert HOSTILE in page.attributes


def test_figures_have_intervals_where_known(page):
    assert '12.3 [10.0, 15.0]' in page.text
    assert '1.0\n' in page.text or '1.0' in page.text.split()
    assert page.tags.count('small') == 2
    assert 'nan' not in page.text
    assert 'n/a' in page.text


def test_without_corruptions_there_is_no_section_of_them(page):
    assert 'by corruption' not in page.text
    assert 'mRCE' not in page.text
