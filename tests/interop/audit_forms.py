"""Reads exports of the audit with libraries that others wrote.

    python3 tests/interop/audit_forms.py cloudevents|ocsf|otel FILE

Prints what they read, one JSON list of [id, kind, milliseconds, what was signed] per record, and fails with what they refuse:
the CloudEvents SDK, OpenTelemetry's protocol buffers, and JSON Schemas made from the published OCSF schema, in which no
attribute may be there that it does not name.
"""

import json
import sys
from base64 import b64encode
from functools import cache
from pathlib import Path


def cloudevents(line):
    from cloudevents.core.formats.json import JSONFormat
    from cloudevents.core.v1.event import CloudEvent

    event = JSONFormat().read(CloudEvent, line)
    attributes, data = event.get_attributes(), event.get_data()
    assert event.get_specversion() == "1.0" and event.get_datacontenttype() == "application/json"
    prefix, suffix = "io.hardtack.", ".v1"
    assert event.get_type().startswith(prefix) and event.get_type().endswith(suffix), event.get_type()
    kind = event.get_type()[len(prefix) : -len(suffix)]
    fleet = attributes["source"].split(":")
    assert fleet[:2] == ["urn", "hardtack"] and data["device"] == fleet[3], attributes
    signed = data["headers"] if kind == "fork" else [data.get("leaf"), data["header"]]
    yield event.get_id(), kind, round(event.get_time().timestamp() * 1000), signed


@cache
def schema(version, class_uid, profiles):
    from jsonschema import Draft202012Validator
    from ocsf_json_schema import OcsfJsonSchemaEmbedded, get_ocsf_schema

    known = OcsfJsonSchemaEmbedded(get_ocsf_schema(version=version))
    name = known.lookup_class_name_from_uid(class_uid=class_uid)
    return Draft202012Validator(known.get_class_schema(class_name=name, profiles=list(profiles)))


def ocsf(line):
    event = json.loads(line)
    metadata = event["metadata"]
    validator = schema(metadata["version"], event["class_uid"], tuple(metadata["profiles"]))
    problems = [f"{'/'.join(map(str, error.absolute_path))}: {error.message}" for error in validator.iter_errors(event)]
    assert not problems, (event, problems)
    assert event["type_uid"] == event["class_uid"] * 100 + event["activity_id"]
    assert event["category_uid"] == event["class_uid"] // 1000
    kind = metadata["event_code"]
    if kind == "fork":
        assert (event["class_uid"], event["severity_id"]) == (2004, 5)
        signed = event["evidences"][0]["data"]["headers"]
    else:
        raw = json.loads(event["raw_data"])
        signed = [raw.get("leaf"), raw["header"]]
    if kind == "decision":
        assert event["class_uid"] == 6003 and event["status_id"] == (1 if event["action_id"] == 1 else 2)
    yield metadata["uid"], kind, event["time"], signed


def otel(line):
    from google.protobuf import json_format
    from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest

    request = json_format.Parse(line, ExportLogsServiceRequest())
    (resource,) = request.resource_logs
    named = {attribute.key: attribute.value.string_value for attribute in resource.resource.attributes}
    assert named["service.name"] == "hardtack" and named["host.name"], named
    (scope,) = resource.scope_logs
    for record in scope.log_records:
        attributes = {attribute.key: attribute.value for attribute in record.attributes}
        assert len(attributes) == len(record.attributes), "an attribute twice"
        assert all(value.WhichOneof("value") for value in attributes.values())
        assert record.severity_number and record.severity_text and record.body.string_value
        kind = record.event_name.removeprefix("hardtack.")
        if kind == "fork":
            signed = json.loads(attributes["hardtack.proof"].string_value)["headers"]
        else:
            # Bytes by now: what was signed came through.
            leaf = attributes.get("hardtack.leaf")
            signed = [leaf and b64encode(leaf.bytes_value).decode()]
            signed.append(b64encode(attributes["hardtack.header"].bytes_value).decode())
        yield attributes["log.record.uid"].string_value, kind, record.time_unix_nano // 1_000_000, signed


def main():
    form, file = sys.argv[1:]
    read = {"cloudevents": cloudevents, "ocsf": ocsf, "otel": otel}[form]
    json.dump([told for line in Path(file).read_text().splitlines() for told in read(line)], sys.stdout)


if __name__ == "__main__":
    main()
