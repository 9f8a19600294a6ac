"""What reuse costs in quality, measured on a real server: `make bench-quality`.

    workload.py         what is asked: parts that may be held, and questions about all of them
    configurations.py   the points of the matrix, the redundant ones found, the forms of a run
    server.py           a server of our own
    client.py           requests over HTTP
    measure.py          publish, teach, ask: the order in which a server is measured
    outcomes.py         what is noted of each prompt
    journal.py          what was measured before an interruption
    identity.py         machine, versions, digests
    run.py              what is asked for, what of it is left to do
    statistics.py       intervals, and the divergence of two answers
    rows.py             outcomes to rows and differences
    plot.py, pages.py   the figure, and the tables in the documents

The server is known by its HTTP interface only.
"""
