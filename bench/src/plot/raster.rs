//! A picture as a PNG. This program contains a font, as servers have none; a reader who wants other
//! letters takes the SVG.

use super::picture::{Anchor, Colour, DASH, Mark, Pen, Picture, Point};
use tiny_skia::{Color, FillRule, Paint, PathBuilder, Pixmap, Rect, Stroke, StrokeDash, Transform};
use ttf_parser::{Face, OutlineBuilder};

/// DejaVu Sans, reduced to Latin-1; its licence lies beside it.
const FONT: &[u8] = include_bytes!("DejaVuSans-Latin.ttf");
/// Pixels per unit of the picture; with two, small letters are readable on a screen of high
/// resolution.
pub const SCALE: f64 = 2.0;

/// The bytes of a PNG, [`SCALE`] times the picture's size.
pub fn png(picture: &Picture) -> Result<Vec<u8>, String> {
    let face = Face::parse(FONT, 0).map_err(|e| format!("the font in this program: {e}"))?;
    let pixels = |units: f64| (units * SCALE).round() as u32;
    let mut canvas = Pixmap::new(pixels(picture.width), pixels(picture.height))
        .ok_or_else(|| format!("no picture of {} x {}", picture.width, picture.height))?;
    canvas.fill(Color::WHITE);
    for mark in &picture.marks {
        match mark {
            Mark::Line { points, pen, colour } => line(&mut canvas, points, *pen, *colour),
            Mark::Bar { at, size, colour } => bar(&mut canvas, *at, *size, *colour),
            Mark::Text { at, anchor, size, colour, text } => {
                let letters = Letters::lay_out(&face, text, *size);
                let left = match anchor {
                    Anchor::Start => at.0,
                    Anchor::Middle => at.0 - letters.width / 2.0,
                    Anchor::End => at.0 - letters.width,
                };
                letters.fill(&mut canvas, (left, at.1), *colour);
            }
        }
    }
    canvas.encode_png().map_err(|e| e.to_string())
}

fn paint(Colour(rgb): Colour) -> Paint<'static> {
    let [_, red, green, blue] = rgb.to_be_bytes();
    let mut paint = Paint::default();
    paint.set_color_rgba8(red, green, blue, 255);
    paint.anti_alias = true;
    paint
}

fn line(canvas: &mut Pixmap, points: &[Point], pen: Pen, colour: Colour) {
    let mut path = PathBuilder::new();
    for (index, (x, y)) in points.iter().enumerate() {
        let (x, y) = (*x as f32, *y as f32);
        if index == 0 { path.move_to(x, y) } else { path.line_to(x, y) }
    }
    // A line of a single point has no length and is not drawn.
    let Some(path) = path.finish() else { return };
    let dash = match pen {
        Pen::Dashed => StrokeDash::new(vec![DASH as f32, DASH as f32], 0.0),
        Pen::Thin | Pen::Strong => None,
    };
    let stroke = Stroke { width: pen.width() as f32, dash, ..Stroke::default() };
    let scale = Transform::from_scale(SCALE as f32, SCALE as f32);
    canvas.stroke_path(&path, &paint(colour), &stroke, scale, None);
}

fn bar(canvas: &mut Pixmap, at: Point, size: Point, colour: Colour) {
    let side = |units: f64| units as f32;
    // A bar without length is not drawn.
    let Some(bar) = Rect::from_xywh(side(at.0), side(at.1), side(size.0), side(size.1)) else {
        return;
    };
    let scale = Transform::from_scale(SCALE as f32, SCALE as f32);
    canvas.fill_rect(bar, &paint(colour), scale, None);
}

/// The outlines of a line of text, from its left end on the base line.
struct Letters {
    path: Option<tiny_skia::Path>,
    /// In units of the picture.
    width: f64,
}

impl Letters {
    /// Lays out `text`; a letter that the font lacks becomes the font's box for missing letters.
    fn lay_out(face: &Face<'_>, text: &str, size: f64) -> Letters {
        let unit = size as f32 / f32::from(face.units_per_em());
        let mut pen = Outline { path: PathBuilder::new(), left: 0.0, unit };
        for letter in text.chars() {
            let glyph = face.glyph_index(letter).unwrap_or_default();
            // A space has no outline, which is no error.
            let _ = face.outline_glyph(glyph, &mut pen);
            pen.left += f32::from(face.glyph_hor_advance(glyph).unwrap_or(0)) * unit;
        }
        Letters { path: pen.path.finish(), width: f64::from(pen.left) }
    }

    fn fill(self, canvas: &mut Pixmap, (left, base): Point, colour: Colour) {
        let Some(path) = self.path else { return };
        let place = Transform::from_translate(left as f32, base as f32);
        let place = place.post_scale(SCALE as f32, SCALE as f32);
        canvas.fill_path(&path, &paint(colour), FillRule::Winding, place, None);
    }
}

/// Receives a glyph's outline, in the font's units, whose y axis points upwards.
struct Outline {
    path: PathBuilder,
    left: f32,
    unit: f32,
}

impl Outline {
    fn place(&self, x: f32, y: f32) -> (f32, f32) {
        (self.left + x * self.unit, -y * self.unit)
    }
}

impl OutlineBuilder for Outline {
    fn move_to(&mut self, x: f32, y: f32) {
        let (x, y) = self.place(x, y);
        self.path.move_to(x, y);
    }

    fn line_to(&mut self, x: f32, y: f32) {
        let (x, y) = self.place(x, y);
        self.path.line_to(x, y);
    }

    fn quad_to(&mut self, x1: f32, y1: f32, x: f32, y: f32) {
        let ((x1, y1), (x, y)) = (self.place(x1, y1), self.place(x, y));
        self.path.quad_to(x1, y1, x, y);
    }

    fn curve_to(&mut self, x1: f32, y1: f32, x2: f32, y2: f32, x: f32, y: f32) {
        let ((x1, y1), (x2, y2)) = (self.place(x1, y1), self.place(x2, y2));
        let (x, y) = self.place(x, y);
        self.path.cubic_to(x1, y1, x2, y2, x, y);
    }

    fn close(&mut self) {
        self.path.close();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What another decoder sees: width, height and how many pixels are not white in a part.
    fn dark(png: &[u8], columns: std::ops::Range<u32>, rows: std::ops::Range<u32>) -> usize {
        let image = Pixmap::decode_png(png).expect("it is a PNG");
        let place = |x| rows.clone().map(move |y| (x, y));
        let all = columns.clone().flat_map(place);
        let white = |(x, y)| {
            let pixel = image.pixel(x, y).expect("it is inside");
            (pixel.red(), pixel.green(), pixel.blue()) == (255, 255, 255)
        };
        all.filter(|at| !white(*at)).count()
    }

    fn picture(marks: Vec<Mark>) -> Picture {
        Picture { width: 100.0, height: 50.0, marks }
    }

    fn text(anchor: Anchor, text: &str) -> Mark {
        let colour = Colour(0x00_0000);
        Mark::Text { at: (50.0, 40.0), anchor, size: 12.0, colour, text: text.into() }
    }

    #[test]
    fn a_picture_is_a_png_of_twice_its_size() {
        let png = png(&picture(Vec::new())).expect("it is drawn");
        assert!(png.starts_with(b"\x89PNG\r\n\x1a\n"));
        let size = |at: usize| u32::from_be_bytes(png[at..at + 4].try_into().expect("four bytes"));
        assert_eq!((size(16), size(20)), (200, 100));
        assert_eq!(dark(&png, 0..200, 0..100), 0, "nothing is drawn");
    }

    #[test]
    fn a_line_is_where_it_belongs_and_a_dashed_one_has_gaps() {
        let mark = |pen| Mark::Line {
            points: vec![(10.0, 25.0), (90.0, 25.0)],
            pen,
            colour: Colour(0xff_0000),
        };
        let solid = png(&picture(vec![mark(Pen::Thin)])).expect("it is drawn");
        assert_eq!(dark(&solid, 20..180, 49..51), 320);
        assert_eq!(dark(&solid, 0..200, 0..100), 320);
        let dashed = png(&picture(vec![mark(Pen::Dashed)])).expect("it is drawn");
        assert!((120..=200).contains(&dark(&dashed, 20..180, 49..51)));
    }

    #[test]
    fn letters_are_drawn_without_any_font_of_the_machine() {
        for (anchor, left, right) in
            [(Anchor::Start, false, true), (Anchor::Middle, true, true), (Anchor::End, true, false)]
        {
            let png = png(&picture(vec![text(anchor, "p99, ms")])).expect("it is drawn");
            // A letter's stem may begin a pixel beside its place.
            let seen = |columns| dark(&png, columns, 0..100) > 20;
            assert_eq!((seen(0..99), seen(101..200)), (left, right), "{anchor:?}");
            // Only a descender is below the base line.
            assert!(dark(&png, 0..200, 82..100) > 0 && dark(&png, 0..200, 86..100) == 0);
        }
        let empty = png(&picture(vec![text(Anchor::Start, " ")])).expect("it is drawn");
        assert_eq!(dark(&empty, 0..200, 0..100), 0);
        let strange = png(&picture(vec![text(Anchor::Start, "\u{4e2d}")])).expect("it is drawn");
        assert!(dark(&strange, 0..200, 0..100) > 10, "an unknown character is a box");
    }
}
