-- name: hold
-- Drills only: a request that holds a connection for a known time makes a bottleneck whose capacity is known.
select pg_sleep($1);
