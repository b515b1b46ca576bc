"""Programs to read and to run, each as ``python -m rawws.examples.NAME``.

================  =====================================================================================
``echo``          the smallest server: each message goes back
``chat``          rooms with names, and a page to talk from
``ticker``        a live feed in which slow readers skip to the newest value
``payments``      a back end that tells another: events that survive the other one's being killed
``existing_app``  a Starlette application with a WebSocket room beside it, on one port
================  =====================================================================================
"""
