use super::*;

const TRACE: u128 = 0x0af7_6519_16cd_43dd_8448_eb21_1c80_319c;
const PARENT: u64 = 0xb7ad_6b71_6920_3331;
const VALID: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

#[test]
fn joins_a_valid_trace() {
    let context = TraceContext::parse(VALID.as_bytes()).unwrap();
    assert_eq!((context.trace_id, context.parent, context.sampled), (TRACE, PARENT, true));
    assert!(context.span != 0 && context.span != PARENT);
}

#[test]
fn reads_the_sampled_flag_alone() {
    for (flags, sampled) in [("00", false), ("01", true), ("02", false), ("03", true), ("fe", false), ("ff", true)] {
        let header = VALID.replace("-01", &format!("-{flags}"));
        assert_eq!(TraceContext::parse(header.as_bytes()).unwrap().sampled, sampled, "{flags}");
    }
}

#[test]
fn reads_what_it_knows_of_later_versions() {
    for header in [
        VALID.replacen("00", "01", 1),
        VALID.replacen("00", "fe", 1),
        VALID.replacen("00", "cc", 1) + "-what-the-future-will-be-like",
        VALID.replacen("00", "cc", 1) + "-",
    ] {
        let context = TraceContext::parse(header.as_bytes()).unwrap_or_else(|| panic!("{header}"));
        assert_eq!((context.trace_id, context.parent, context.sampled), (TRACE, PARENT, true));
    }
}

#[test]
fn ignores_whatever_is_malformed() {
    for header in [
        String::new(),
        "00".to_owned(),
        VALID.to_uppercase(),
        VALID.replace("0af7", "0AF7"),
        VALID.replace("-b7ad", "-B7ad"),
        VALID.replacen("00", "0A", 1),
        VALID.replacen("00", "ff", 1),
        VALID.replacen("00", ".0", 1),
        VALID.replace("0af7651916cd43dd8448eb211c80319c", "00000000000000000000000000000000"),
        VALID.replace("b7ad6b7169203331", "0000000000000000"),
        VALID.replace("0af7651916cd43dd8448eb211c80319c", "0af7651916cd43dd8448eb211c80319g"),
        VALID.replace("-01", "-1"),
        VALID.replace("-01", "-.0"),
        VALID.replace("-01", "-0A"),
        VALID.replace("-01", ""),
        format!("{VALID}-"),
        format!("{VALID}-extra"),
        format!("{VALID} "),
        format!(" {VALID}"),
        VALID.replacen("00", "cc", 1) + ".extra",
        VALID.replace('-', "_"),
        VALID.replace("0af7", "0af"),
        VALID.replace("0af7", "00af7"),
    ] {
        assert_eq!(TraceContext::parse(header.as_bytes()), None, "{header}");
    }
    assert_eq!(TraceContext::parse(b"00-\xff\xfe"), None);
}

#[test]
fn starts_a_trace_where_none_was_sent_or_two_were() {
    let traces = Traces { exported: true, permille: 1_000 };
    let mut headers = HeaderMap::new();
    let first = traces.accept(&headers);
    let second = traces.accept(&headers);
    assert!(first.trace_id != 0 && first.trace_id != second.trace_id && first.span != second.span);
    assert_eq!((first.parent, first.sampled), (0, true));

    headers.append(TRACEPARENT, HeaderValue::from_static(VALID));
    assert_eq!(traces.accept(&headers).trace_id, TRACE);
    headers.append(TRACEPARENT, HeaderValue::from_static(VALID));
    assert_ne!(traces.accept(&headers).trace_id, TRACE, "which of two would it be?");
}

#[test]
fn hands_on_its_own_span_as_the_parent() {
    let context = TraceContext { trace_id: TRACE, parent: PARENT, span: 0x1f, sampled: true };
    assert_eq!(context.to_header(), "00-0af7651916cd43dd8448eb211c80319c-000000000000001f-01");
    let next = TraceContext::parse(context.to_header().as_bytes()).unwrap();
    assert_eq!((next.trace_id, next.parent, next.sampled), (TRACE, 0x1f, true));
    let unsampled = TraceContext { sampled: false, ..context };
    assert!(unsampled.to_header().to_str().unwrap().ends_with("-00"));
}

#[test]
fn samples_the_share_it_was_told() {
    let sampled = |permille| {
        let traces = Traces { exported: true, permille };
        (0..10_000).filter(|_| traces.start().sampled).count()
    };
    assert_eq!(sampled(0), 0);
    assert_eq!(sampled(1_000), 10_000);
    // Ten standard deviations around 1,000.
    assert!((700..1_300).contains(&sampled(100)));
}

#[test]
fn makes_no_span_that_nobody_sees() {
    let sampled = TraceContext { trace_id: TRACE, parent: PARENT, span: 1, sampled: true };
    let unsampled = TraceContext { sampled: false, ..sampled };
    assert!(Traces { exported: false, permille: 1_000 }.call_span("a.B/C", &sampled).is_none());
    assert!(Traces { exported: true, permille: 1_000 }.call_span("a.B/C", &unsampled).is_none());
    assert!(!Traces { exported: false, permille: 1_000 }.start().sampled);
}
