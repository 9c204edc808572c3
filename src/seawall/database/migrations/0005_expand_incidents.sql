-- A copy of the keeper's incidents. Its files are what counts: they are there while the database is not.

create table incidents (
    id text collate "C" primary key,
    status text not null check (status in ('open', 'resolved')),
    began_at timestamptz not null,
    resolved_at timestamptz,
    title text not null,
    record jsonb not null,
    kept_at timestamptz not null default now()
);
