-- Accounts whose requests are never urgent: backups, mirrors, batch jobs. They wait when others cannot.

alter table accounts add column is_background boolean not null default false;
