"""Speed beside plain vLLM in the same run, and beside what arithmetic allows: `make bench-speed`.

    rows.py                          a figure with its limit and its goal
    arithmetic.py                    the limit: FLOPs of a full and of a sparse prefill
    workloads.py, load.py            what is asked of an engine, and what came of it
    drive.py                         plays a load on an engine, step by step
    engine_process.py, engines.py    plain vLLM, and vLLM with the connector
    disturbance.py                   how much of the machine others used meanwhile
    prefills.py, cold.py, traffic.py, agents.py, streams.py
                                     what is measured on engines
    growth*.py                       how figures grow with length, reuse and streams
    parts*.py                        what is measured without any: splitting, stores, routing
    measures.py, sizes.py            all of these by name, and how much of each
    run.py, journal.py               one run, and what an interrupted one has made
    pages.py, plot.py                table, figure, docs/performance.md
    vllm_serve.py                    vLLM's own load generator where its command does not start

What each figure means is in docs/performance.md.
"""
