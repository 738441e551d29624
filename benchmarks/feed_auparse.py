"""A peer of the benchmark, run by Debian's own Python: libauparse's feed, every field's name and raw value read."""

import sys

import auparse


def read_event(parser, kind, _user):
    """Touch every field of every record of an event that is complete."""
    if kind != auparse.AUPARSE_CB_EVENT_READY:
        return
    parser.first_record()
    while True:
        parser.first_field()
        while True:
            parser.get_field_name()
            parser.get_field_str()
            if not parser.next_field():
                break
        if not parser.next_record():
            break


def main():
    """Feed a file in chunks of 256 KiB."""
    parser = auparse.AuParser(auparse.AUSOURCE_FEED, None)
    parser.add_callback(read_event, None)
    with open(sys.argv[1], "rb") as log:
        while chunk := log.read(1 << 18):
            parser.feed(chunk.decode("utf-8", "surrogateescape"))
    parser.flush_feed()


main()
