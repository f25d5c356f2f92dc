//! The JSON Schema of the configuration, for editors.
//!
//! The types here are shapes only: nothing is ever read into them. The readers are what decides; a
//! test holds the two against each other, field by field, and against `config/reference.yaml` for
//! the defaults.

mod release;
mod sticky;

use std::borrow::Cow;
use std::collections::BTreeMap;

use schemars::generate::SchemaSettings;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};

/// The JSON Schema (draft 2020-12) of the configuration.
pub fn schema() -> serde_json::Value {
    let settings = SchemaSettings::draft2020_12();
    settings
        .into_generator()
        .into_root_schema_for::<Configuration>()
        .to_value()
}

/// The configuration of Weighbridge.
///
/// `${NAME}`, `${NAME:-default}` and `${NAME:?message}` in values are taken from the environment;
/// `$${` is a literal `${`.
#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
struct Configuration {
    /// Worker threads; by default one per core. Changes need a restart.
    #[schemars(default)]
    workers: Count<1, 1024>,
    /// Shutdown.
    #[schemars(default)]
    drain: Drain,
    /// Idle connections to upstreams.
    #[schemars(default)]
    pool: Pool,
    /// Maximum concurrent requests over all workers; 0: no limit. Further ones get 503.
    #[schemars(default, extend("default" = 0))]
    max_in_flight: Count<0, 100_000_000>,
    /// The listeners; by default one on 0.0.0.0:8080.
    #[schemars(default, length(min = 1, max = 64))]
    listeners: Vec<Listener>,
    /// The admin API.
    #[schemars(default)]
    admin: Admin,
    /// The store, which survives a restart.
    #[schemars(default)]
    store: Store,
    /// The services, by name.
    #[schemars(extend("minProperties" = 1, "propertyNames" = key_schema()))]
    services: BTreeMap<String, Service>,
    /// Receivers of release events; changes need a restart.
    #[schemars(default, length(max = 32), extend("default" = []))]
    webhooks: Vec<release::WebhookBlock>,
    /// The program log, on standard error.
    #[schemars(default)]
    log: Log,
    /// The access log, one line per request.
    #[schemars(default, extend("default" = "off"))]
    access_log: AccessLog,
}

/// Shutdown.
#[derive(Default, JsonSchema)]
#[schemars(default, deny_unknown_fields)]
struct Drain {
    /// How long listeners stay open after readiness fails, for load balancers to notice.
    #[schemars(extend("default" = "0s"))]
    delay: Duration,
    /// How long requests in flight may take to finish.
    #[schemars(extend("default" = "30s"))]
    timeout: Duration,
}

/// Idle connections to upstreams.
#[derive(Default, JsonSchema)]
#[schemars(default, deny_unknown_fields)]
struct Pool {
    /// Idle connections per worker and endpoint.
    #[schemars(extend("default" = 128))]
    idle_per_endpoint: Count<0, 1_000_000>,
    /// How long a connection may stay idle; shorter than the timeout of the upstreams.
    #[schemars(extend("default" = "4s"))]
    idle_timeout: Duration,
}

/// A listener.
#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
struct Listener {
    /// `IP:port` to listen on.
    address: Text,
    /// Its name in metrics and logs; by default its address.
    #[schemars(default)]
    name: Name,
    /// Timeouts for clients. `0s`: no limit.
    #[schemars(default)]
    timeouts: ListenerTimeouts,
    /// Limits for client requests.
    #[schemars(default)]
    limits: Limits,
    /// Peers, as addresses or networks, whose `X-Forwarded-*` and `X-Request-Id` are trusted.
    /// Those of others are replaced or removed.
    #[schemars(default, extend("default" = []))]
    trusted_proxies: Vec<String>,
}

/// Timeouts for clients.
#[derive(Default, JsonSchema)]
#[schemars(default, deny_unknown_fields)]
struct ListenerTimeouts {
    /// For the whole head of a request.
    #[schemars(extend("default" = "10s"))]
    header: Duration,
    /// Between two parts of a request body.
    #[schemars(extend("default" = "10s"))]
    body_idle: Duration,
    /// Between two requests on one connection.
    #[schemars(extend("default" = "60s"))]
    keep_alive: Duration,
}

/// Limits for client requests.
#[derive(Default, JsonSchema)]
#[schemars(default, deny_unknown_fields)]
struct Limits {
    /// The head of a request, request line included; more gets 431.
    #[schemars(extend("default" = "64KiB"))]
    header_bytes: Size,
    /// Fields of a request's head; more get 431.
    #[schemars(extend("default" = 100))]
    headers: Count<1, 10_000>,
    /// The request target, at most 65534 bytes; more gets 414.
    #[schemars(extend("default" = "16KiB"))]
    uri_bytes: Size,
    /// The body of a request; `0B`: no limit. More gets 413.
    #[schemars(extend("default" = "0B"))]
    body_bytes: Size,
    /// Concurrent connections over all workers; 0: no limit. Further ones wait in the
    /// kernel's queue.
    #[schemars(extend("default" = 10_000))]
    connections: Count<0, 10_000_000>,
}

/// The admin API.
#[derive(Default, JsonSchema)]
#[schemars(default, deny_unknown_fields)]
struct Admin {
    /// `IP:port` to listen on. An address other than loopback requires tokens.
    #[schemars(extend("default" = "127.0.0.1:9900"))]
    address: Text,
    /// The callers of the API; without tokens it is open.
    #[schemars(length(min = 1, max = 1000))]
    tokens: Vec<Token>,
    /// A file with a list of tokens, as under `tokens`, in addition to these.
    tokens_file: Text,
    /// Accepted `Host` values besides the address itself and the loopback names.
    #[schemars(extend("default" = []))]
    allowed_hosts: Vec<String>,
    /// Origins of other web pages that may call the API.
    #[schemars(extend("default" = []))]
    allowed_origins: Vec<String>,
}

/// A caller of the admin API.
#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
struct Token {
    /// The name of the caller in the journal.
    name: Name,
    /// The role; each role includes the previous ones.
    role: Role,
    /// SHA-256 of the token, as 64 hexadecimal digits.
    sha256: String,
}

#[derive(JsonSchema)]
#[schemars(rename_all = "snake_case")]
enum Role {
    View,
    Operate,
    Approve,
    Admin,
}

/// The store, which survives a restart.
#[derive(Default, JsonSchema)]
#[schemars(default, deny_unknown_fields)]
struct Store {
    /// Directory of the database, created if missing; without it, state is lost at the end.
    path: Text,
}

/// A named application behind the proxy.
#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
struct Service {
    /// Routes to this service; `[{}]` matches every request.
    #[schemars(length(min = 1, max = 1000))]
    routes: Vec<Route>,
    /// The deployed versions, by name.
    #[schemars(extend("minProperties" = 1, "maxProperties" = 64, "propertyNames" = key_schema()))]
    upstreams: BTreeMap<String, Upstream>,
    /// Percent of the traffic of each upstream, to 0.01; they sum to 100. By default all on the
    /// baseline, or on the only upstream. These are the initial weights; later the admin
    /// API controls them.
    #[schemars(default)]
    weights: BTreeMap<String, Percent>,
    /// The upstream that a rollback returns to, until one has held 100 percent; by default the one
    /// with the largest weight.
    #[schemars(default)]
    baseline: Name,
    /// Timeouts of an exchange with an upstream. `0s`: no limit.
    #[schemars(default)]
    timeouts: Timeouts,
    /// What identifies a user for the split; without it requests are assigned at random.
    #[schemars(default)]
    sticky: sticky::StickyBlock,
    /// How testers select an upstream by name, at any weight.
    #[schemars(default)]
    tester: Tester,
    /// Active checks of every endpoint; without them every endpoint counts as healthy.
    #[schemars(default)]
    health: Health,
    /// The release plan; by default as with `{}`.
    #[schemars(default)]
    release: release::ReleaseBlock,
}

/// A route; all given conditions must match.
#[derive(Default, JsonSchema)]
#[schemars(default, deny_unknown_fields)]
struct Route {
    /// `shop.example.com`, or `*.example.com` for everything below it; by default any.
    host: Text,
    /// A prefix on segment boundaries: `/shop` matches `/shop/cart`, not `/shopping`.
    #[schemars(extend("default" = "/"))]
    path_prefix: Text,
    /// Methods, in capitals; by default any.
    #[schemars(extend("default" = []))]
    methods: Vec<String>,
    /// Headers that must have exactly these values.
    #[schemars(extend("default" = {}))]
    headers: BTreeMap<String, String>,
}

/// A deployed version of a service.
#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
struct Upstream {
    /// `IP:port` of each endpoint; `localhost` stands for 127.0.0.1.
    #[schemars(length(min = 1, max = 1000))]
    endpoints: Vec<String>,
    /// The protocol.
    #[schemars(default, extend("default" = "http1"))]
    protocol: Protocol,
}

#[derive(Default, JsonSchema)]
#[schemars(rename_all = "snake_case")]
enum Protocol {
    #[default]
    Http1,
}

/// Timeouts of an exchange with an upstream.
#[derive(Default, JsonSchema)]
#[schemars(default, deny_unknown_fields)]
struct Timeouts {
    /// For a connection to be established, with each endpoint that is tried.
    #[schemars(extend("default" = "1s"))]
    connect: Duration,
    /// From the request being sent to the first byte of the response.
    #[schemars(extend("default" = "15s"))]
    first_byte: Duration,
    /// Between two parts of a body, in either direction.
    #[schemars(extend("default" = "60s"))]
    idle: Duration,
    /// For the whole exchange.
    #[schemars(extend("default" = "0s"))]
    total: Duration,
}

#[derive(JsonSchema)]
#[schemars(rename_all = "snake_case")]
enum Tester {
    /// By this header, whose value is the upstream's name.
    Header(String),
    /// By a cookie of this name, whose value is the upstream's name.
    Cookie(String),
}

impl Default for Tester {
    fn default() -> Self {
        Tester::Header(String::new())
    }
}

/// Active checks of every endpoint: a GET whose response must be 200 to 399.
#[derive(Default, JsonSchema)]
#[schemars(default, deny_unknown_fields)]
struct Health {
    /// The path of the request.
    #[schemars(extend("default" = "/"))]
    path: Text,
    /// The `Host`, also of preflight requests; by default that of the service's first route
    /// without a wildcard, else the endpoint's address.
    host: Text,
    /// When a larger share of an upstream's endpoints is unhealthy, all of them are used; `0%`:
    /// never. Not for the canary of a release.
    #[schemars(extend("default" = "0%"))]
    panic: Part,
    /// Between two checks of an endpoint.
    #[schemars(extend("default" = "5s"))]
    interval: Duration,
    /// Timeout of a check.
    #[schemars(extend("default" = "1s"))]
    timeout: Duration,
    /// Failures in a row until a healthy endpoint counts as unhealthy.
    #[schemars(extend("default" = 3))]
    unhealthy_after: Count<1, 1000>,
    /// Successes in a row until an unhealthy endpoint counts as healthy.
    #[schemars(extend("default" = 2))]
    healthy_after: Count<1, 1000>,
}

/// The program log, on standard error.
#[derive(Default, JsonSchema)]
#[schemars(default, deny_unknown_fields)]
struct Log {
    /// The lowest severity that is logged.
    #[schemars(extend("default" = "info"))]
    level: Level,
    /// The format of a line.
    #[schemars(extend("default" = "text"))]
    format: LogFormat,
}

#[derive(Default, JsonSchema)]
#[schemars(rename_all = "snake_case")]
enum Level {
    Error,
    Warn,
    #[default]
    Info,
    Debug,
    Trace,
}

#[derive(Default, JsonSchema)]
#[schemars(rename_all = "snake_case")]
enum LogFormat {
    #[default]
    Text,
    Json,
}

#[derive(JsonSchema)]
#[schemars(untagged)]
enum AccessLog {
    /// `off`, `stdout`, or the path of a file, with a `/`.
    Target(String),
    /// Target and format.
    Full(FullAccessLog),
}

impl Default for AccessLog {
    fn default() -> Self {
        AccessLog::Full(FullAccessLog::default())
    }
}

#[derive(Default, JsonSchema)]
#[schemars(deny_unknown_fields)]
struct FullAccessLog {
    /// `off`, `stdout`, or the path of a file, with a `/`; reopened on SIGUSR1.
    to: Text,
    /// The format of a line.
    #[schemars(default, extend("default" = "json"))]
    format: AccessLogFormat,
}

#[derive(Default, JsonSchema)]
#[schemars(rename_all = "snake_case")]
enum AccessLogFormat {
    #[default]
    Json,
    Combined,
}

/// Pattern of a variable in a value; such a value is not validated here.
const VARIABLE: &str = r"\$\{";

/// The events of webhooks.
const EVENTS: [&str; 12] = crate::model::Webhook::EVENTS;

/// Pattern of a name.
const NAME: &str = "^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$";

macro_rules! shape {
    (
        $(#[$meta:meta])* $name:ident $([$(const $parameter:ident),*])?,
        $inner:literal, $schema:expr
    ) => {
        $(#[$meta])*
        #[derive(Default)]
        struct $name$(<$(const $parameter: usize),*>)?;

        impl$(<$(const $parameter: usize),*>)? JsonSchema for $name$(<$($parameter),*>)? {
            fn inline_schema() -> bool {
                true
            }

            fn schema_name() -> Cow<'static, str> {
                $inner.into()
            }

            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                $schema
            }
        }
    };
}

shape!(
    /// A number with a unit.
    Duration, "Duration", json_schema!({
        "type": "string",
        "pattern": format!(r"^(\d+(\.\d+)?(us|ms|s|m|h|d))+$|{VARIABLE}"),
    })
);
shape!(
    /// Bytes, with a unit.
    Size, "Size", json_schema!({
        "type": "string",
        "pattern": format!(r"^\d+(\.\d+)?(B|kB|MB|GB|KiB|MiB|GiB)$|{VARIABLE}"),
    })
);
shape!(
    /// A whole number.
    Count[const MIN, const MAX], "Count", json_schema!({
        "type": ["integer", "string"],
        "minimum": MIN,
        "maximum": MAX,
        "pattern": VARIABLE,
    })
);
shape!(
    /// A text; a type of its own, since an empty `String` would be taken for its default.
    Text, "Text", json_schema!({ "type": "string" })
);
shape!(
    /// A share in percent.
    Percent, "Percent", json_schema!({
        "type": ["number", "string"],
        "minimum": 0,
        "maximum": 100,
        "pattern": VARIABLE,
    })
);
shape!(
    /// A part of a whole in percent, such as `50%`.
    Part, "Part", json_schema!({
        "type": "string",
        "pattern": format!(r"^\d+(\.\d+)?%$|{VARIABLE}"),
    })
);
shape!(
    /// A weight of a step in percent.
    StepWeight, "StepWeight", json_schema!({
        "type": ["number", "string"],
        "exclusiveMinimum": 0,
        "maximum": 100,
        "pattern": VARIABLE,
    })
);
shape!(
    /// A share, in percent, percentage points or as a fraction.
    Share, "Share", json_schema!({
        "type": ["number", "string"],
        "minimum": 0,
        "pattern": format!(r"^\d+(\.\d+)?(pp|%)?$|{VARIABLE}"),
    })
);
shape!(
    /// A number above zero.
    Rate, "Rate", json_schema!({
        "type": ["number", "string"],
        "exclusiveMinimum": 0,
        "pattern": VARIABLE,
    })
);
shape!(
    /// The name of an event.
    Event, "Event", json_schema!({ "type": "string", "enum": EVENTS })
);
shape!(
    /// The name of a service, an upstream, a listener or a caller.
    Name, "Name", name_schema()
);
shape!(
    /// Nothing but `true`.
    True, "True", json_schema!({ "const": true })
);

fn name_schema() -> Schema {
    json_schema!({ "type": "string", "pattern": format!("{NAME}|{VARIABLE}") })
}

/// Keys are taken as they stand.
fn key_schema() -> Schema {
    json_schema!({ "type": "string", "pattern": NAME })
}
