//! A picture of lines, bars and texts, and its form as SVG. This module knows neither runs nor
//! fonts.

use std::fmt::Write;

/// A colour: red, green and blue, one byte each, blue in the lowest byte.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Colour(pub u32);

/// A point: its distances to the right and downwards, in units of the picture.
pub type Point = (f64, f64);

/// Which part of a text stands at its point.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Anchor {
    /// The left end of the text.
    Start,
    /// The middle of the text.
    Middle,
    /// The right end of the text.
    End,
}

/// How a line is drawn.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Pen {
    /// A thin line.
    Thin,
    /// A thin dashed line.
    Dashed,
    /// A line that shows values.
    Strong,
}

impl Pen {
    /// Width in units of the picture.
    pub fn width(self) -> f64 {
        if self == Pen::Strong { 1.5 } else { 1.0 }
    }
}

/// The length of dashes and of the gaps between them, in units of the picture.
pub const DASH: f64 = 3.0;

/// An element of a picture.
#[derive(Debug)]
pub enum Mark {
    /// A line through points.
    Line {
        /// At least two points.
        points: Vec<Point>,
        /// The kind of the line.
        pen: Pen,
        /// The colour of the line.
        colour: Colour,
    },
    /// A filled rectangle.
    Bar {
        /// The upper left corner.
        at: Point,
        /// Width and height.
        size: Point,
        /// The colour of the rectangle.
        colour: Colour,
    },
    /// A line of text.
    Text {
        /// A point on the base line.
        at: Point,
        /// Which part of the text stands at this point.
        anchor: Anchor,
        /// The size of the font.
        size: f64,
        /// The colour of the text.
        colour: Colour,
        /// The words.
        text: String,
    },
}

/// Marks on a white background.
#[derive(Debug)]
pub struct Picture {
    /// The width in the picture's own units; a viewer scales them.
    pub width: f64,
    /// The height in these units.
    pub height: f64,
    /// The marks; later ones cover earlier ones.
    pub marks: Vec<Mark>,
}

impl Picture {
    /// The picture as SVG.
    pub fn svg(&self) -> String {
        let (width, height) = (self.width, self.height);
        let mut out = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" \
             font-family=\"DejaVu Sans,Verdana,sans-serif\">\n\
             <rect width=\"100%\" height=\"100%\" fill=\"#fff\"/>\n"
        );
        for mark in &self.marks {
            let _ = match mark {
                Mark::Line { points, pen, colour } => {
                    let dashes = match pen {
                        Pen::Dashed => format!(" stroke-dasharray=\"{DASH}\""),
                        Pen::Thin | Pen::Strong => String::new(),
                    };
                    writeln!(
                        out,
                        "<path d=\"{}\" fill=\"none\" stroke=\"#{:06x}\" stroke-width=\"{}\"\
                         {dashes}/>",
                        path(points),
                        colour.0,
                        pen.width()
                    )
                }
                Mark::Bar { at: (x, y), size: (width, height), colour } => writeln!(
                    out,
                    "<rect x=\"{x:.1}\" y=\"{y:.1}\" width=\"{width:.1}\" height=\"{height:.1}\" \
                     fill=\"#{:06x}\"/>",
                    colour.0
                ),
                Mark::Text { at: (x, y), anchor, size, colour, text } => {
                    let anchor = match anchor {
                        Anchor::Start => "",
                        Anchor::Middle => " text-anchor=\"middle\"",
                        Anchor::End => " text-anchor=\"end\"",
                    };
                    writeln!(
                        out,
                        "<text x=\"{x:.1}\" y=\"{y:.1}\" font-size=\"{size}\" \
                         fill=\"#{:06x}\"{anchor}>{}</text>",
                        colour.0,
                        escaped(text)
                    )
                }
            };
        }
        out.push_str("</svg>\n");
        out
    }
}

fn path(points: &[Point]) -> String {
    let mut text = String::new();
    for (index, (x, y)) in points.iter().enumerate() {
        let command = if index == 0 { 'M' } else { 'L' };
        let _ = write!(text, "{command}{x:.1} {y:.1}");
    }
    text
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_mark_is_in_the_svg() {
        let colour = Colour(0x00_72b2);
        let line = |pen| Mark::Line { points: vec![(1.0, 2.0), (3.0, 4.25)], pen, colour };
        let text = "a<b & c".to_owned();
        let text = Mark::Text { at: (5.0, 6.0), anchor: Anchor::End, size: 10.0, colour, text };
        let picture = Picture { width: 9.0, height: 8.0, marks: vec![line(Pen::Dashed), text] };
        let svg = picture.svg();
        for words in [
            "viewBox=\"0 0 9 8\"",
            "d=\"M1.0 2.0L3.0 4.2\" fill=\"none\" stroke=\"#0072b2\"",
            "stroke-dasharray=\"3\"",
            "text-anchor=\"end\">a&lt;b &amp; c</text>",
        ] {
            assert!(svg.contains(words), "{words} is not in {svg}");
        }
        assert!(svg.ends_with("</svg>\n"));
    }
}
