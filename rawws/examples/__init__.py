"""Programs to read and to run, each as ``python -m rawws.examples.NAME``, with a page of its own.

================  =====================================================================================
``echo``          the smallest server: each message goes back to its sender
``chat``          rooms with names, and a list of the people who are there
``scores``        live scores by WebSocket and by server-sent events, side by side
``ticker``        a feed of prices in which slow readers get the latest price of each symbol
``editing``       a text and a whiteboard that several browsers edit at once
``game``          light trails for many players, decided by the server
``payments``      a back end that notifies another: events that survive a kill of the other one
``sms_workers``   workers that share the payments as jobs: each payment is the job of one of them
``existing_app``  a Starlette application with a WebSocket room, on one port
================  =====================================================================================

The command ``python -m rawws.examples`` lists them with the commands that run them.
"""
