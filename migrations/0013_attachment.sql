-- What was a constant is chosen: the metric of an Attachment's default route, so that two in one Namespace never tie.

UPDATE attachments SET alloc = json_set(alloc, '$.metric', coalesce(spec ->> '$.metric', 100));

PRAGMA user_version = 13;
