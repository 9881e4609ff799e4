-- Adopted namespaces: who each of them is stands in `alloc` of its row, and none is adopted twice. A namespace is known by
-- its cookie within one boot of the kernel.

CREATE UNIQUE INDEX namespaces_adopted ON namespaces (alloc ->> '$.adopted.boot', alloc ->> '$.adopted.cookie')
    WHERE alloc ->> '$.adopted.cookie' IS NOT NULL;

PRAGMA user_version = 12;
