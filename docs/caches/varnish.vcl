# Varnish 7 as the shield of a Headwater origin. README.md beside this file says how to start it.
# Change the two lines of the backend; everything else is tested as it stands.
vcl 4.1;

backend default {
    .host = "127.0.0.1";
    .port = "9094";
    .connect_timeout = 2s;
    # A blocking playlist or a hinted part is held by the origin until it is there.
    .first_byte_timeout = 60s;
    # A growing object is silent between two chunks.
    .between_bytes_timeout = 60s;
}

sub vcl_recv {
    # Readers come through the shield, encoders go to the origin.
    if (req.method != "GET" && req.method != "HEAD" && req.method != "OPTIONS") {
        return (synth(405));
    }
    # Nothing that the origin answers depends on them, and each would end caching.
    unset req.http.Cookie;
    unset req.http.Authorization;
    # The origin reads three query parameters. All others (CMCD, _HLS_pathway, _HLS_throughput,
    # tokens, noise) would only split the cache; the order of the three does not matter.
    if (req.url ~ "\?") {
        set req.http.X-Msn = regsub(req.url, "^[^?]*\?(?:.*&)?(_HLS_msn=[^&]*).*$|^.*$", "&\1");
        set req.http.X-Part = regsub(req.url, "^[^?]*\?(?:.*&)?(_HLS_part=[^&]*).*$|^.*$", "&\1");
        set req.http.X-Skip = regsub(req.url, "^[^?]*\?(?:.*&)?(_HLS_skip=[^&]*).*$|^.*$", "&\1");
        set req.url = regsub(req.url, "\?.*$", "") + "?" + req.http.X-Msn + req.http.X-Part + req.http.X-Skip;
        set req.url = regsuball(req.url, "&&+", "&");
        set req.url = regsub(req.url, "\?&", "?");
        set req.url = regsub(req.url, "[?&]+$", "");
        unset req.http.X-Msn;
        unset req.http.X-Part;
        unset req.http.X-Skip;
    }
    # A clock out of a cache is wrong.
    if (req.url ~ "/time$") {
        return (pass);
    }
}

sub vcl_backend_response {
    # A live playlist past its time is worse than an error: the player cannot tell that it is old.
    set beresp.grace = 0s;
    # What may not be kept. The built-in rule would remember for two minutes that this URL is not
    # to be collapsed; but a URL that was refused a moment ago is the one that everybody asks next.
    if (beresp.ttl <= 0s || beresp.http.Cache-Control ~ "(?i)no-store|no-cache|private") {
        set beresp.ttl = 1s;
        set beresp.uncacheable = true;
    }
    return (deliver);
}

# The origin is away: let the CDN ask its other origin, and ask again soon.
sub vcl_backend_error {
    set beresp.http.Cache-Control = "no-store";
    set beresp.http.Retry-After = "1";
    set beresp.ttl = 0s;
    return (deliver);
}
