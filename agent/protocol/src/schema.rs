//! JSON Schema (2020-12) of the types that write themselves; the others derive theirs.

use crate::{
    ImageName, InstanceId, IscsiName, Mac, NetworkName, NicName, Object, OpId, PeerName, SnapshotName, State,
    Text, Uuid, Vni, VolumeName,
};
use alloc::borrow::Cow;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};

/// What a name is, as a regular expression (ECMA-262).
const NAME: &str = "^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$";

macro_rules! text {
    ($($type:ident, $pattern:expr, $most:literal, $doc:literal;)*) => {
        $(impl JsonSchema for $type {
            fn schema_name() -> Cow<'static, str> {
                stringify!($type).into()
            }

            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                json_schema!({ "type": "string", "pattern": $pattern, "maxLength": $most, "description": $doc })
            }
        })*
    };
}

text! {
    InstanceId, NAME, 63, "A name of an instance or a target: of a-z, 0-9 and hyphens, none of them at an end.";
    ImageName, NAME, 63, "A name of an image.";
    OpId, NAME, 63, "A name of an operation.";
    VolumeName, NAME, 63, "A name of a disk of an instance.";
    NicName, NAME, 63, "A name of a network interface of an instance.";
    NetworkName, NAME, 63, "A name of a network.";
    SnapshotName, NAME, 63, "A name of a snapshot.";
    PeerName, NAME, 63, "A name of another host.";
    IscsiName, "^(iqn|eui|naa)\\.[a-z0-9.:-]+$", 223, "An iSCSI name (RFC 7143 section 4.2.7).";
    Mac, "^[0-9a-f]{2}(:[0-9a-f]{2}){5}$", 17, "An Ethernet address of one station.";
    Uuid, "^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$", 36, "128 bits as RFC 9562 section 4 writes them.";
}

impl JsonSchema for Text {
    fn schema_name() -> Cow<'static, str> {
        "Text".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "maxLength": Self::LIMIT, "description": "Words for a person." })
    }
}

impl JsonSchema for Vni {
    fn schema_name() -> Cow<'static, str> {
        "Vni".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": "integer", "minimum": 1, "maximum": 16_777_215,
            "description": "A VXLAN network identifier (RFC 7348 section 5)."
        })
    }
}

impl JsonSchema for State {
    fn schema_name() -> Cow<'static, str> {
        "State".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        let names = Self::ALL.map(Self::as_str);
        json_schema!({ "type": "string", "enum": names, "description": "What an instance is doing, as last observed." })
    }
}

impl<T: JsonSchema> JsonSchema for Object<T> {
    fn inline_schema() -> bool {
        T::inline_schema()
    }

    fn schema_name() -> Cow<'static, str> {
        T::schema_name()
    }

    fn schema_id() -> Cow<'static, str> {
        T::schema_id()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        T::json_schema(generator)
    }
}
