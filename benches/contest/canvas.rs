//! What the pictures are drawn with.

use std::fmt::Write;

/// A picture (SVG) under construction.
#[derive(Default)]
pub struct Canvas {
    body: String,
}

impl Canvas {
    pub fn text(&mut self, x: f64, y: f64, attributes: &str, text: &str) {
        let escaped = text.replace("**", "").replace('&', "&amp;").replace('<', "&lt;");
        let _ = writeln!(self.body, "<text x=\"{x:.1}\" y=\"{y:.1}\" {attributes}>{escaped}</text>");
    }

    pub fn bar(&mut self, x: f64, y: f64, width: f64, height: f64, colour: &str) {
        let _ = writeln!(
            self.body,
            "<rect x=\"{x:.1}\" y=\"{y:.1}\" width=\"{width:.1}\" height=\"{height:.1}\" fill=\"{colour}\"/>"
        );
    }

    pub fn line(&mut self, points: &[(f64, f64)], colour: &str, width: f64) {
        let points: Vec<String> = points.iter().map(|(x, y)| format!("{x:.1},{y:.1}")).collect();
        let points = points.join(" ");
        let _ = writeln!(
            self.body,
            "<polyline points=\"{points}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"{width}\"/>"
        );
    }

    /// The whole picture.
    pub fn picture(&self, width: f64, height: f64) -> String {
        format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height:.0}\" font-family=\"sans-serif\" font-size=\"12\">
<style>.head {{ font-size: 16px; font-weight: bold }} .title {{ font-weight: bold }} .ours {{ font-weight: bold }} .small {{ font-size: 11px; fill: #555 }}</style>
<rect width=\"100%\" height=\"100%\" fill=\"#fff\"/>
{}</svg>
",
            self.body
        )
    }
}
