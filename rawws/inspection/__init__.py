"""A connection seen from outside, sans-IO: recordings and dumps in, sentences about them out.

* Input: ``spellings`` is the table of textual forms, which ``hexdump``, ``literals`` and ``packets`` read. ``records``
  are recordings by ``--record``. ``file_kinds`` recognizes anything else.
* Analysis: ``observer`` follows both directions and returns what is in ``seen``. ``frame_judge`` judges the frames.
* Output: ``describe`` makes lines for a person, and ``dissect`` lays out one frame bit by bit.
* ``conformance`` has the cases of ``rawws check``.
"""
