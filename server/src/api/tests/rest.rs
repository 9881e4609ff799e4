use super::*;

const NAMESPACE: &str = r#"{"name": "red"}"#;

#[test]
fn an_object_is_made_changed_and_deleted_by_its_path() {
    in_house(async |house| {
        let made = house.post("/v1/namespaces?wait=0", NAMESPACE).await;
        assert_eq!((made.status, made.header("location")), (StatusCode::CREATED, "/v1/namespaces/red"));
        let etag = made.header("etag").to_owned();
        assert_eq!(etag, format!("{}", made.json()["etag"]));
        let got = house.get("/v1/namespaces/red").await;
        assert_eq!((got.status, got.header("etag"), got.json()), (StatusCode::OK, &*etag, made.json()));

        let json = "content-type: application/merge-patch+json";
        let patch = async |etag: &str| {
            let headers = [json, &format!("if-match: {etag}")];
            house
                .call(Method::PATCH, "/v1/namespaces/red?wait=0", &headers, r#"{"labels": {"a": "b"}}"#)
                .await
        };
        let changed = patch(&etag).await;
        assert_eq!((changed.status, &changed.json()["labels"]["a"]), (StatusCode::OK, &"b".into()));
        assert_eq!(patch(&etag).await.problem(), "412 ETAG_MISMATCH -");

        let gone = house.delete("/v1/namespaces/red?wait=0").await;
        assert_eq!(gone.status, StatusCode::OK);
        assert!(gone.json()["delete_time"].is_string());
    });
}

#[test]
fn what_is_missing_is_made_or_left_out_where_the_caller_allows_it() {
    in_house(async |house| {
        let json = ["content-type: application/json"];
        let patch = async |query: &str| {
            house.call(Method::PATCH, &format!("/v1/namespaces/red?{query}"), &json, "{}").await
        };
        assert_eq!(patch("wait=0").await.problem(), "404 NOT_FOUND -");
        let made = patch("wait=0&allow_missing=true").await;
        assert_eq!((made.status, made.header("location")), (StatusCode::CREATED, "/v1/namespaces/red"));
        assert_eq!(patch("wait=0&allow_missing=true").await.status, StatusCode::OK);

        assert_eq!(house.delete("/v1/namespaces/blue").await.problem(), "404 NOT_FOUND -");
        let none = house.delete("/v1/namespaces/blue?allow_missing=true").await;
        assert_eq!((none.status, none.text.as_str()), (StatusCode::NO_CONTENT, ""));
    });
}

#[test]
fn a_dry_run_answers_with_the_plan_and_keeps_nothing() {
    in_house(async |house| {
        let dry = house.post("/v1/namespaces?dry_run=true", NAMESPACE).await;
        assert_eq!((dry.status, dry.header("location")), (StatusCode::OK, ""));
        assert_eq!(dry.json()["plan"]["changes"][0]["action"], "created");
        assert_eq!(house.get("/v1/namespaces/red").await.status, StatusCode::NOT_FOUND);
    });
}

#[test]
fn a_retry_with_the_same_key_gets_the_same_object_and_another_request_with_it_is_refused() {
    in_house(async |house| {
        let create = async |key: &str, body: &str| {
            let headers = ["content-type: application/json", &format!("idempotency-key: {key}")];
            house.call(Method::POST, "/v1/namespaces?wait=0", &headers, body).await
        };
        let first = create("k1", NAMESPACE).await;
        let again = create("k1", NAMESPACE).await;
        assert_eq!((first.status, again.status), (StatusCode::CREATED, StatusCode::OK));
        assert_eq!(first.json(), again.json());
        assert_eq!(create("k1", r#"{"name": "blue"}"#).await.problem(), "422 IDEMPOTENCY_MISMATCH -");
        assert_eq!(create("k 1", NAMESPACE).await.problem(), "400 INVALID_ARGUMENT Idempotency-Key");
    });
}

#[test]
fn every_bad_request_gets_a_problem_that_names_the_field() {
    in_house(async |house| {
        let json = ["content-type: application/json"];
        let cases: &[(&str, &str, &[&str], &str, &str)] = &[
            ("GET", "/v1/nonsense", &[], "", "404 NO_SUCH_METHOD -"),
            ("GET", "/", &[], "", "404 NO_SUCH_METHOD -"),
            ("PUT", "/v1/networks", &[], "", "405 METHOD_NOT_ALLOWED -"),
            ("POST", "/healthz", &[], "", "405 METHOD_NOT_ALLOWED -"),
            ("GET", "/v1/namespaces/host", &[], "", "404 NOT_FOUND -"),
            ("GET", "/v1/namespaces/Red", &[], "", "400 INVALID_ARGUMENT name"),
            ("GET", "/v1/namespaces/a%2Fb", &[], "", "400 INVALID_ARGUMENT name"),
            ("GET", "/v1/namespaces/%ff", &[], "", "400 INVALID_ARGUMENT name"),
            ("GET", "/v1/namespaces/red?x=1", &[], "", "400 MALFORMED x"),
            ("GET", "/v1/namespaces?namespace=red", &[], "", "400 MALFORMED namespace"),
            ("GET", "/v1/networks?page_size=0", &[], "", "400 INVALID_ARGUMENT page_size"),
            ("GET", "/v1/networks?page_size=ten", &[], "", "400 INVALID_ARGUMENT page_size"),
            ("GET", "/v1/networks?page_token=zz", &[], "", "400 INVALID_ARGUMENT page_token"),
            ("GET", "/v1/networks?label=a", &[], "", "400 INVALID_ARGUMENT label"),
            ("GET", "/v1/events?after=-1", &[], "", "400 INVALID_ARGUMENT after"),
            ("GET", "/v1/events?kind=Cat", &[], "", "400 INVALID_ARGUMENT kind"),
            ("GET", "/v1/events?initial=true", &[], "", "400 MALFORMED initial"),
            ("GET", "/v1/events?after=999", &[], "", "410 EXPIRED -"),
            ("GET", "/v1/events?after=999", &["accept: text/event-stream"], "", "410 EXPIRED -"),
            ("GET", "/v1/events?page_size=1", &["accept: text/event-stream"], "", "400 MALFORMED page_size"),
            ("GET", "/v1/openapi.json?version=2.0", &[], "", "400 INVALID_ARGUMENT version"),
            ("GET", "/v1/allocations/none", &[], "", "404 NOT_FOUND -"),
            ("POST", "/v1/namespaces", &[], NAMESPACE, "415 UNSUPPORTED_MEDIA_TYPE -"),
            (
                "POST",
                "/v1/namespaces",
                &["content-type: text/plain"],
                NAMESPACE,
                "415 UNSUPPORTED_MEDIA_TYPE -",
            ),
            ("POST", "/v1/namespaces", &json, "{", "400 MALFORMED -"),
            ("POST", "/v1/namespaces", &json, "", "400 MALFORMED -"),
            ("POST", "/v1/namespaces", &json, "[]", "400 INVALID_ARGUMENT "),
            (
                "POST",
                "/v1/namespaces",
                &json,
                r#"{"name": "red", "spec": {"x": 1}}"#,
                "400 INVALID_ARGUMENT spec.x",
            ),
            ("POST", "/v1/namespaces", &json, r#"{"name": "Red"}"#, "400 INVALID_ARGUMENT name"),
            ("POST", "/v1/namespaces?wait=61s", &json, NAMESPACE, "400 INVALID_ARGUMENT wait"),
            ("POST", "/v1/namespaces?wait=5", &json, NAMESPACE, "400 INVALID_ARGUMENT wait"),
            ("POST", "/v1/namespaces?dry_run=1", &json, NAMESPACE, "400 INVALID_ARGUMENT dry_run"),
            ("PATCH", "/v1/namespaces/red", &json, "7", "400 MALFORMED -"),
            ("DELETE", "/v1/namespaces/red", &["if-match: *"], "", "400 INVALID_ARGUMENT If-Match"),
        ];
        for (method, path, headers, body, problem) in cases {
            let method = method.parse().unwrap();
            let reply = house.call(method, path, headers, body).await;
            assert_eq!(&reply.problem(), problem, "{path} {body}");
        }
        assert_eq!(house.call(Method::PUT, "/v1/networks", &[], "").await.header("allow"), "GET,HEAD,POST");
    });
}

#[test]
fn a_stream_begins_with_what_exists_and_goes_on_after_the_last_event() {
    in_house(async |house| {
        for name in ["blue", "red"] {
            house.post("/v1/namespaces?wait=0", &format!(r#"{{"name": "{name}"}}"#)).await;
        }
        let page = house.get("/v1/events?type=created&page_size=1").await.json();
        assert_eq!((page["items"][0]["name"].as_str(), page["seq"].as_i64()), (Some("blue"), Some(1)));

        let listed = follow(&house, "initial=true", None, 2).await;
        assert!(listed[0].contains("event: created") && !listed[0].contains("id: "), "{listed:?}");
        assert!(listed[0].contains(r#""name":"blue""#) && listed[1].contains(r#""name":"red""#));
        assert!(
            listed[1].contains("id: 2"),
            "a broken listing cannot be resumed, and a whole one can: {listed:?}"
        );

        let resumed = follow(&house, "initial=true", Some("1"), 1).await;
        assert!(resumed[0].contains("id: 2") && resumed[0].contains(r#""name":"red""#), "{resumed:?}");
    });
}

/// The first events of a stream.
async fn follow(house: &House, query: &str, last: Option<&str>, count: usize) -> Vec<String> {
    let request = Request::get(format!("/v1/events?{query}")).header("accept", "text/event-stream");
    let request = last.into_iter().fold(request, |request, id| request.header("last-event-id", id));
    let response = house.router.clone().oneshot(request.body(Body::empty()).unwrap()).await.unwrap();
    assert_eq!(response.headers()["content-type"], "text/event-stream");
    let mut body = response.into_body();
    let mut text = String::new();
    while text.matches("\n\n").count() < count {
        let frame = body.frame().await.unwrap().unwrap();
        text.push_str(std::str::from_utf8(frame.data_ref().unwrap()).unwrap());
    }
    text.split("\n\n").map(str::to_owned).collect()
}

#[test]
fn the_daemon_tells_of_itself() {
    in_house(async |house| {
        assert_eq!(house.get("/healthz").await.status, StatusCode::OK);
        assert_eq!(house.get("/readyz").await.problem(), "503 UNAVAILABLE -");
        house.become_ready();
        assert_eq!(house.get("/readyz").await.text, "ready\n");
        assert_eq!(house.get("/v1/version").await.json()["api"], "v1");
        assert_eq!(house.get("/v1/openapi.json").await.json()["openapi"], "3.1.0");
        assert_eq!(house.get("/v1/openapi.json?version=3.0").await.json()["openapi"], "3.0.3");
        let docs = house.get("/docs/").await;
        assert_eq!(docs.status, StatusCode::OK);
        assert!(!docs.text.contains("https://"), "the page needs nothing from elsewhere");
        house.post("/v1/namespaces?wait=0", NAMESPACE).await;
        house.get("/v1/no-such-thing").await;
        let metrics = house.get("/metrics").await.text;
        for line in [
            r#"netloom_objects{kind="Namespace",ready="unknown"} 1"#,
            r#"netloom_requests_total{door="rest",method="POST",path="/v1/namespaces",status="201"} 1"#,
            r#"netloom_requests_total{door="rest",method="GET",path="",status="404"} 1"#,
        ] {
            assert!(metrics.lines().any(|other| other == line), "{line} is not in\n{metrics}");
        }
    });
}
