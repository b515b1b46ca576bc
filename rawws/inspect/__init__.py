"""A connection seen from outside, sans-IO: recordings and dumps in, sentences about them out.

``observer`` follows both directions, ``dissect`` and ``hexdump`` show bytes, ``conformance`` holds the cases of
``rawws check``.
"""
