"""Agent traffic over a thousand simulated replicas: `python -m benchmarks.routing_simulation`.

    traffic.py    sessions of agents that share documents; requests as lists of segments
    cluster.py    replicas and nodes: memory, queues, what a request takes
    ours.py       our policy: the real registry and score, told what a cluster would tell
    policies.py   the policies that it is compared with
    simulate.py   the course of events, and what is measured
    report.py     the table, and the page in which it stands

Registry and score are the real ones; replicas, networks and time are simulated. Only the time that
a decision takes is the wall's.
"""
