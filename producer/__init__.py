"""Accept: what comes by HTTP becomes a durable row. Knows ledger and queues, neither dispatcher nor consumers."""
