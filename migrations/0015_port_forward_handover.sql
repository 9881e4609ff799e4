-- A forward that is being deleted leaves its port to one that comes in the same transaction: its row stays until the kernel
-- is done with it, and no longer counts.

DROP TRIGGER port_forwards_conflict_of_new;
DROP TRIGGER port_forwards_conflict_of_changed;
DROP VIEW port_forward_conflicts;

-- Two forwards conflict when the protocol agrees, the ports intersect, and the addresses are equal or one is any. The
-- other one either begins within this one's ports, or is a range, at most 1 024 long, that begins before and reaches in.
CREATE VIEW port_forward_conflicts AS
    SELECT one.uid, other.uid AS other FROM port_forwards AS one JOIN port_forwards AS other
        ON other.protocol = one.protocol
       AND other.first_port BETWEEN one.first_port AND one.last_port
       AND (other.address IS NULL OR one.address IS NULL OR other.address = one.address)
       AND other.uid <> one.uid
       AND one.delete_time IS NULL AND other.delete_time IS NULL
    UNION ALL
    SELECT one.uid, other.uid AS other FROM port_forwards AS one JOIN port_forwards AS other
        ON other.protocol = one.protocol
       AND other.last_port > other.first_port
       AND other.first_port BETWEEN one.first_port - 1023 AND one.first_port - 1
       AND other.last_port >= one.first_port
       AND (other.address IS NULL OR one.address IS NULL OR other.address = one.address)
       AND one.delete_time IS NULL AND other.delete_time IS NULL;

-- Forwards that change places are taken out before any of them is put in again, so a row only ever comes in.
CREATE TRIGGER port_forwards_conflict_of_new AFTER INSERT ON port_forwards
WHEN EXISTS (SELECT 1 FROM port_forward_conflicts WHERE uid = new.uid)
BEGIN
    SELECT raise(ABORT, 'two port forwards publish the same port');
END;

CREATE TRIGGER port_forwards_conflict_of_changed AFTER UPDATE OF spec, alloc ON port_forwards
WHEN EXISTS (SELECT 1 FROM port_forward_conflicts WHERE uid = new.uid)
BEGIN
    SELECT raise(ABORT, 'two port forwards publish the same port');
END;

PRAGMA user_version = 15;
