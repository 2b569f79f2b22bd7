//! Charts as SVG, of nothing but text.

use std::fmt::Write as _;

const WIDTH: f64 = 760.0;
const COLOURS: [&str; 5] = ["#6b7280", "#2563eb", "#0d9488", "#d97706", "#b91c1c"];
const LEFT: f64 = 190.0;
const BAR: f64 = 34.0;

/// Horizontal bars from zero, each with its value.
pub(crate) fn bars(title: &str, unit: &str, values: &[(&str, f64)]) -> String {
    let (mut svg, height) = (String::new(), 60.0 + BAR * values.len() as f64);
    let most = values.iter().map(|&(_, value)| value).fold(1.0, f64::max);
    open(&mut svg, height, title);
    for (index, (name, value)) in values.iter().enumerate() {
        let (y, width) = (45.0 + BAR * index as f64, (WIDTH - LEFT - 130.0) * value / most);
        text(&mut svg, LEFT - 10.0, y + 16.0, "end", name);
        line(
            &mut svg,
            &format!(r#"<rect x="{LEFT}" y="{y}" width="{width:.1}" height="22" fill="{}"/>"#, colour(index)),
        );
        text(&mut svg, LEFT + width + 8.0, y + 16.0, "start", &format!("{value:.0} {unit}"));
    }
    svg + "</svg>\n"
}

/// Shares of calls from half of them to all but one in 10,000.
pub(crate) const SHARES: [f64; 9] = [0.5, 0.75, 0.9, 0.95, 0.99, 0.995, 0.999, 0.9995, 0.9999];

/// How long the shares of calls took, in microseconds, one line a series; both axes logarithmic.
pub(crate) fn delays(title: &str, series: &[(&str, [f64; SHARES.len()])]) -> String {
    const TOP: f64 = 50.0;
    const BOTTOM: f64 = 330.0;
    const RIGHT: f64 = WIDTH - 30.0;
    const START: f64 = 80.0;
    let mut svg = String::new();
    open(&mut svg, BOTTOM + 60.0 + 20.0 * series.len() as f64, title);
    let all = || series.iter().flat_map(|(_, values)| values).copied().filter(|&value| value > 0.0);
    let low = all().fold(f64::MAX, f64::min).log10().floor();
    let high = all().fold(1.0, f64::max).log10().ceil().max(low + 1.0);
    let x = |share: f64| {
        let [from, to, at] = [SHARES[0], SHARES[SHARES.len() - 1], share].map(|share| -(1.0 - share).log10());
        START + (RIGHT - START) * (at - from) / (to - from)
    };
    let y = |value: f64| BOTTOM - (BOTTOM - TOP) * (value.max(1e-3).log10() - low) / (high - low);
    for power in low as i32..=high as i32 {
        let (value, at) = (10_f64.powi(power), y(10_f64.powi(power)));
        line(&mut svg, &format!(r##"<path d="M{START} {at:.1}H{RIGHT}" stroke="#d1d5db"/>"##));
        text(&mut svg, START - 8.0, at + 4.0, "end", &format!("{value} µs"));
    }
    for share in [0.5, 0.9, 0.99, 0.999, 0.9999] {
        text(&mut svg, x(share), BOTTOM + 20.0, "middle", &format!("{} %", (share * 1e6_f64).round() / 1e4));
    }
    for (index, (name, values)) in series.iter().enumerate() {
        let points: Vec<_> = SHARES.iter().zip(values).map(|(&s, &v)| format!("{:.1},{:.1}", x(s), y(v))).collect();
        let (points, colour) = (points.join(" "), colour(index));
        line(&mut svg, &format!(r#"<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="2"/>"#));
        let at = BOTTOM + 50.0 + 20.0 * index as f64;
        line(&mut svg, &format!(r#"<rect x="{START}" y="{}" width="14" height="10" fill="{colour}"/>"#, at - 9.0));
        text(&mut svg, START + 22.0, at, "start", name);
    }
    svg + "</svg>\n"
}

fn open(svg: &mut String, height: f64, title: &str) {
    line(
        svg,
        &format!(
            r#"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" font-family="sans-serif" font-size="13">"#
        ),
    );
    line(svg, r##"<rect width="100%" height="100%" fill="#ffffff"/>"##);
    line(svg, &format!(r##"<text x="20" y="26" font-size="16" fill="#111827">{title}</text>"##));
}

fn text(svg: &mut String, x: f64, y: f64, anchor: &str, what: &str) {
    line(svg, &format!(r##"<text x="{x:.1}" y="{y:.1}" text-anchor="{anchor}" fill="#374151">{what}</text>"##));
}

fn line(svg: &mut String, what: &str) {
    writeln!(svg, "{what}").expect("text takes all");
}

fn colour(index: usize) -> &'static str {
    COLOURS[index % COLOURS.len()]
}
