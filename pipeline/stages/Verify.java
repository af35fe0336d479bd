// Checks a bundle with nothing but a JDK (11 or later): java Verify.java BUNDLE [PUBLIC-KEY.pem]
//
// Every file must have the sha256 and the size that bundle.json records, and bundle.json its own digest. With a key,
// bundle.sig must be valid and list the same hashes. Exit code 0, or 1 with a line for each file that was changed.

import java.io.IOException;
import java.io.InputStream;
import java.math.BigInteger;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.LinkOption;
import java.nio.file.NoSuchFileException;
import java.nio.file.Path;
import java.security.GeneralSecurityException;
import java.security.KeyFactory;
import java.security.MessageDigest;
import java.security.PublicKey;
import java.security.Signature;
import java.security.interfaces.ECPublicKey;
import java.security.spec.X509EncodedKeySpec;
import java.util.ArrayList;
import java.util.Base64;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.TreeMap;
import java.util.TreeSet;
import java.util.stream.Collectors;
import java.util.stream.Stream;

public final class Verify {
    static final String MANIFEST = "bundle.json";
    static final String SIGNATURE = "bundle.sig";
    static final String PAYLOAD_TYPE = "application/vnd.in-toto+json";
    static final long LARGEST_MANIFEST = 64L << 20;
    static final int DEEPEST = 64;

    final Path root;
    final List<String> problems = new ArrayList<>();

    Verify(Path root) {
        this.root = root;
    }

    public static void main(String[] arguments) throws Exception {
        if (arguments.length < 1 || arguments.length > 2) {
            System.err.println("usage: java Verify.java BUNDLE [PUBLIC-KEY.pem]");
            System.exit(2);
        }
        Verify verify = new Verify(Path.of(arguments[0]));
        String summary = null;
        try {
            summary = verify.check(arguments.length == 2 ? Path.of(arguments[1]) : null);
        } catch (Refused refused) {
            verify.problems.add(refused.getMessage());
        }
        if (!verify.problems.isEmpty()) {
            // A file's name must not control the terminal.
            verify.problems.forEach(problem -> System.err.println(problem.replaceAll("\\p{C}", "?")));
            System.exit(1);
        }
        System.out.println(summary);
    }

    String check(Path key) throws IOException, GeneralSecurityException {
        byte[] content = limited(MANIFEST);
        Map<String, Object> manifest = manifest(content);
        Map<String, Object> files = object(manifest.get("files"), MANIFEST);
        TreeMap<String, String> digests = new TreeMap<>();
        files.forEach((name, file) -> {
            requireInside(name);
            digests.put(name, String.valueOf(object(file, MANIFEST).get("sha256")));
        });
        checkFiles(files, digests);
        digests.put(MANIFEST, hex(sha256(content)));
        String signature = checkSignature(key, digests);
        return manifest.get("model") + " " + manifest.get("version") + ": " + digests.size() + " files are intact; "
            + SIGNATURE + ": " + signature;
    }

    Map<String, Object> manifest(byte[] content) throws GeneralSecurityException {
        String text = new String(content, StandardCharsets.UTF_8);
        Map<String, Object> manifest = object(parsed(text, MANIFEST), MANIFEST);
        String digest = String.valueOf(manifest.get("digest"));
        int place = text.indexOf(digest);
        if (!digest.matches("[0-9a-f]{64}") || place < 0) {
            throw new Refused(MANIFEST + " was changed: it has no digest");
        }
        // Bytes, not text: what is not UTF-8 must not be replaced on the way.
        byte[] zeroed = content.clone();
        int start = indexOf(content, digest.getBytes(StandardCharsets.US_ASCII));
        for (int i = 0; i < 64; i++) {
            zeroed[start + i] = '0';
        }
        if (!hex(sha256(zeroed)).equals(digest)) {
            throw new Refused(MANIFEST + " was changed: its digest does not match");
        }
        return manifest;
    }

    void checkFiles(Map<String, Object> files, Map<String, String> digests) throws IOException, GeneralSecurityException {
        TreeSet<String> seen = new TreeSet<>();
        List<Path> found;
        try (Stream<Path> walk = Files.walk(root, DEEPEST)) { // follows no link
            found = walk.filter(path -> !Files.isDirectory(path, LinkOption.NOFOLLOW_LINKS)).sorted()
                .collect(Collectors.toList());
        }
        for (Path path : found) {
            String name = root.relativize(path).toString().replace('\\', '/');
            seen.add(name);
            if (Files.isSymbolicLink(path)) {
                problems.add(name + " is a symbolic link");
            } else if (!Files.isRegularFile(path, LinkOption.NOFOLLOW_LINKS)) {
                problems.add(name + " is not a plain file");
            } else if (!files.containsKey(name)) {
                if (!name.equals(MANIFEST) && !name.equals(SIGNATURE)) {
                    problems.add(name + " does not belong to the bundle");
                }
            } else {
                Object size = object(files.get(name), MANIFEST).get("size_bytes");
                if (!String.valueOf(Files.size(path)).equals(String.valueOf(size))
                    || !hex(sha256(path)).equals(digests.get(name))) {
                    problems.add(name + " was changed");
                }
            }
        }
        for (String name : digests.keySet()) {
            if (!seen.contains(name)) {
                problems.add(name + " is missing");
            }
        }
    }

    /** Checks the signature against the hashes of the files, and says what was found out. */
    String checkSignature(Path key, Map<String, String> digests) throws IOException, GeneralSecurityException {
        if (!Files.exists(root.resolve(SIGNATURE), LinkOption.NOFOLLOW_LINKS)) {
            if (key != null) {
                throw new Refused(SIGNATURE + " is missing: the bundle is not signed");
            }
            return "not signed";
        }
        if (key == null) {
            return "not checked, because no public key was given";
        }
        ECPublicKey publicKey = publicKey(key);
        int bits = publicKey.getParams().getCurve().getField().getFieldSize();
        String hash = bits == 256 ? "SHA256" : bits == 384 ? "SHA384" : "SHA512";
        byte[] payload;
        byte[] signed;
        try {
            Object parsed = parsed(new String(limited(SIGNATURE), StandardCharsets.UTF_8), SIGNATURE);
            Map<String, Object> envelope = object(object(parsed, SIGNATURE).get("dsseEnvelope"), SIGNATURE);
            List<?> signatures = (List<?>) envelope.get("signatures");
            payload = Base64.getDecoder().decode((String) envelope.get("payload"));
            signed = Base64.getDecoder().decode((String) object(signatures.get(0), SIGNATURE).get("sig"));
            if (!PAYLOAD_TYPE.equals(envelope.get("payloadType")) || signatures.size() != 1) {
                throw new Refused(SIGNATURE + " is a signature of another kind");
            }
        } catch (ClassCastException | NullPointerException | IllegalArgumentException | IndexOutOfBoundsException e) {
            throw new Refused(SIGNATURE + " was changed: it is not a signature");
        }
        Signature verifier = Signature.getInstance(hash + "withECDSA");
        verifier.initVerify(publicKey);
        String head = "DSSEv1 " + PAYLOAD_TYPE.length() + " " + PAYLOAD_TYPE + " " + payload.length + " ";
        verifier.update(head.getBytes(StandardCharsets.US_ASCII));
        verifier.update(payload);
        boolean valid;
        try {
            valid = verifier.verify(signed);
        } catch (GeneralSecurityException e) {
            valid = false;
        }
        if (!valid) {
            problems.add(SIGNATURE + " is not valid: it was changed, or made with another key");
            return "not valid";
        }
        Map<String, String> listed = new TreeMap<>();
        Object statement = parsed(new String(payload, StandardCharsets.UTF_8), SIGNATURE);
        Object predicate = object(statement, SIGNATURE).get("predicate");
        for (Object one : (List<?>) object(predicate, SIGNATURE).get("resources")) {
            Map<String, Object> resource = object(one, SIGNATURE);
            listed.put(String.valueOf(resource.get("name")), String.valueOf(resource.get("digest")));
        }
        TreeSet<String> names = new TreeSet<>(listed.keySet());
        names.addAll(digests.keySet());
        for (String name : names) {
            if (listed.get(name) == null || !listed.get(name).equals(digests.get(name))) {
                problems.add(name + " was changed after the bundle was signed");
            }
        }
        return "valid";
    }

    static ECPublicKey publicKey(Path path) throws IOException {
        try {
            String text = new String(Files.readAllBytes(path), StandardCharsets.US_ASCII);
            String mark = "-----BEGIN PUBLIC KEY-----";
            int start = text.indexOf(mark);
            int end = text.indexOf("-----END PUBLIC KEY-----");
            byte[] encoded = Base64.getMimeDecoder().decode(text.substring(start + mark.length(), end));
            PublicKey key = KeyFactory.getInstance("EC").generatePublic(new X509EncodedKeySpec(encoded));
            return (ECPublicKey) key;
        } catch (NoSuchFileException e) {
            throw new Refused(path + ": no such file");
        } catch (GeneralSecurityException | ClassCastException | IndexOutOfBoundsException | IllegalArgumentException e) {
            throw new Refused(path + " is no public EC key in PEM format");
        }
    }

    byte[] limited(String name) throws IOException {
        Path path = root.resolve(name);
        if (!Files.isRegularFile(path, LinkOption.NOFOLLOW_LINKS)) {
            throw new Refused(root + " is not a bundle: it has no plain file " + name);
        }
        if (Files.size(path) > LARGEST_MANIFEST) {
            throw new Refused(name + " is too large");
        }
        return Files.readAllBytes(path);
    }

    static void requireInside(String name) {
        for (String part : name.split("/", -1)) {
            if (part.isEmpty() || part.equals(".") || part.equals("..") || part.contains("\\") || part.contains("\0")) {
                throw new Refused(MANIFEST + " names '" + name + "', which is not the path of a file of the bundle");
            }
        }
    }

    static byte[] sha256(byte[] content) throws GeneralSecurityException {
        return MessageDigest.getInstance("SHA-256").digest(content);
    }

    static byte[] sha256(Path path) throws IOException, GeneralSecurityException {
        MessageDigest digest = MessageDigest.getInstance("SHA-256");
        try (InputStream stream = Files.newInputStream(path)) {
            byte[] part = new byte[1 << 20];
            for (int count = stream.read(part); count >= 0; count = stream.read(part)) {
                digest.update(part, 0, count);
            }
        }
        return digest.digest();
    }

    static String hex(byte[] digest) {
        return String.format("%064x", new BigInteger(1, digest));
    }

    static int indexOf(byte[] content, byte[] part) {
        for (int start = 0; start <= content.length - part.length; start++) {
            int same = 0;
            while (same < part.length && content[start + same] == part[same]) {
                same++;
            }
            if (same == part.length) {
                return start;
            }
        }
        throw new Refused(MANIFEST + " was changed: it has no digest");
    }

    @SuppressWarnings("unchecked")
    static Map<String, Object> object(Object value, String file) {
        if (!(value instanceof Map)) {
            throw new Refused(file + " was changed: it has another form");
        }
        return (Map<String, Object>) value;
    }

    static Object parsed(String text, String file) {
        try {
            return new Json(text).whole();
        } catch (IllegalArgumentException | IndexOutOfBoundsException e) {
            throw new Refused(file + " was changed: it is not JSON");
        }
    }

    /** Something that is not what it should be: the reason for the user. */
    static final class Refused extends RuntimeException {
        private static final long serialVersionUID = 1;

        Refused(String reason) {
            super(reason, null, false, false);
        }
    }

    /** JSON as maps, lists, strings; numbers and words as text. */
    static final class Json {
        static final int DEEPEST = 100;
        final String text;
        int place = 0;

        Json(String text) {
            this.text = text;
        }

        Object whole() {
            Object value = value(0);
            space();
            if (place != text.length()) {
                throw new IllegalArgumentException();
            }
            return value;
        }

        Object value(int depth) {
            space();
            if (depth > DEEPEST) {
                throw new IllegalArgumentException();
            }
            char first = text.charAt(place);
            if (first == '"') {
                return string();
            }
            if (first == '{' || first == '[') {
                return first == '{' ? map(depth) : list(depth);
            }
            int start = place;
            while (place < text.length() && ",]} \t\r\n".indexOf(text.charAt(place)) < 0) {
                place++;
            }
            String word = text.substring(start, place);
            if (!word.matches("true|false|null|-?[0-9]+(\\.[0-9]+)?([eE][-+]?[0-9]+)?")) {
                throw new IllegalArgumentException();
            }
            return word;
        }

        Map<String, Object> map(int depth) {
            Map<String, Object> found = new LinkedHashMap<>();
            place++;
            space();
            while (text.charAt(place) != '}') {
                space();
                String name = string();
                space();
                expect(':');
                if (found.put(name, value(depth + 1)) != null) {
                    throw new IllegalArgumentException();
                }
                next('}');
            }
            place++;
            return found;
        }

        List<Object> list(int depth) {
            List<Object> found = new ArrayList<>();
            place++;
            space();
            while (text.charAt(place) != ']') {
                found.add(value(depth + 1));
                next(']');
            }
            place++;
            return found;
        }

        void next(char end) {
            space();
            if (text.charAt(place) != end) {
                expect(',');
                space();
                if (text.charAt(place) == end) {
                    throw new IllegalArgumentException();
                }
            }
        }

        String string() {
            StringBuilder found = new StringBuilder();
            expect('"');
            while (text.charAt(place) != '"') {
                char sign = text.charAt(place++);
                if (sign != '\\') {
                    found.append(sign);
                    continue;
                }
                char escaped = text.charAt(place++);
                int known = "\"\\/bfnrt".indexOf(escaped);
                if (known >= 0) {
                    found.append("\"\\/\b\f\n\r\t".charAt(known));
                } else if (escaped == 'u') {
                    found.append((char) Integer.parseInt(text.substring(place, place + 4), 16));
                    place += 4;
                } else {
                    throw new IllegalArgumentException();
                }
            }
            place++;
            return found.toString();
        }

        void expect(char sign) {
            if (text.charAt(place++) != sign) {
                throw new IllegalArgumentException();
            }
        }

        void space() {
            while (place < text.length() && " \t\r\n".indexOf(text.charAt(place)) >= 0) {
                place++;
            }
        }
    }
}
